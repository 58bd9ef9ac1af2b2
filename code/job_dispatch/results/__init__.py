"""After the dispatch: run the jobs, see what is done and what failed, and collect the results.

`gathering.gather(folder)` returns all jobs of a results folder as `gathering.Results`: one `gathering.Row` per job,
with its status, assets, parameters, values, pictures, seconds, peak memory, attempts, reason and end of its log.
`running.run(...)` runs jobs on this machine, each in a process of its own.
"""
