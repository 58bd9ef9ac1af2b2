"""After the dispatch: run the jobs, see what is done and what failed, and collect the results."""
