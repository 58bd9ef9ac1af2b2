"""Our side, in a process of its own.

python -m benchmarks.ours list SHAPE COUNT
python -m benchmarks.ours measure SHAPE COUNT
python -m benchmarks.ours bare SHAPE COUNT
python -m benchmarks.ours write DIRECTORY JOBS ROUNDS
python -m benchmarks.ours balance
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.store import S3Store

from benchmarks.measuring import print_and_leave, report
from benchmarks.shapes import BUCKET, SHAPES, locations, names
from job_dispatch import main
from job_dispatch.jobs.building import Jobs, plan
from job_dispatch.jobs.output_folder import locked, write
from job_dispatch.jobs.sharing import Shares, share, share_by_size, share_out
from job_dispatch.model import Asset, Cohort, File, Files, Group, LocatedAsset
from job_dispatch.request.parameters import Parameters
from job_dispatch.storage import s3  # noqa: F401  `locating` loads it when it meets the first location in S3: here before the clock starts
from job_dispatch.storage.locating import locate

if TYPE_CHECKING:
    from obstore.store import ClientConfig

_CONCURRENCY = 256
_FOLDERS = 50
_PAGES_AT_ONCE = 64
_SETS = ({"method": "isolation_distance"}, {"method": "amplitude_cutoff"})


def _assets(shape: str, count: int) -> list[Asset]:
    pairs = zip(names(shape, count), locations(shape, count), strict=True)
    return [Asset(f"id-{name}", name, location, f"co-{name}") for name, location in pairs]


def _cohort(assets: list[Asset]) -> Cohort:
    return Cohort([Group((asset,)) for asset in assets])


def _list(shape: str, assets: list[Asset]) -> int:
    files = locate(_cohort(assets), endings=SHAPES[shape.partition("+")[0]].ending, max_concurrency=_CONCURRENCY)
    return sum(len(one.files or ()) for one in files.assets)


def _measure(shape: str, assets: list[Asset]) -> int:
    """Find out the sizes of all stores."""
    files = locate(
        _cohort(assets), endings=SHAPES[shape.partition("+")[0]].ending, sizes=True, max_concurrency=_CONCURRENCY
    )
    return len([file for one in files.assets for file in one.files or () if file.size])


def _bare(shape: str, count: int) -> int:
    """List first pages by obstore alone, many at once."""
    options: ClientConfig = {"allow_http": True}
    store = S3Store(BUCKET, endpoint=os.environ["AWS_ENDPOINT_URL_S3"], skip_signature=True, client_options=options)

    async def list_all() -> None:
        free = asyncio.Semaphore(_PAGES_AT_ONCE)

        async def first_page(name: str) -> None:
            async with free:
                await anext(obstore.list(store, f"{name}/", chunk_size=1_000, return_arrow=True), None)

        await asyncio.gather(*map(first_page, names(shape, count)))

    asyncio.run(list_all())
    return count


def _plan(jobs: int) -> Jobs:
    """Return so many jobs, two of them an asset."""
    assets = _assets("flat", jobs // len(_SETS))
    located = [LocatedAsset(one, (File(f"{one.location}/nwb/session.nwb", 1),)) for one in assets]
    parameters = Parameters({"analysis_name": "benchmark", "cutoff": 0.05}, _SETS)
    cohort = replace(_cohort(assets), query='{"subject.subject_id":"774659"}')
    return plan(Files(cohort, located), parameters, max_jobs=jobs)


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write(directory: Path, jobs: int, rounds: int) -> None:
    """Compare writing a plan with creating files of the same bytes, in turns.

    Nothing is removed before the end of all: for a minute ext4 passes over each inode that was freed, one by
    one, whenever it makes a file.
    """
    planned = _plan(jobs)
    folders = share_out(planned, _FOLDERS)
    written, bare = [], []
    for number in range(rounds):
        ours, theirs = directory / f"ours-{number}", directory / f"bare-{number}"
        with locked(ours, overwrite=False) as output:
            written.append(_timed(lambda: write(output, planned, folders.shares)))
        paths = [
            f"{folder}/{planned.planned[job].name}.json"
            for folder, numbers in enumerate(folders.shares)
            for job in numbers
        ]
        contents = {path: (ours / path).read_bytes() for path in paths}  # in the same order
        bare.append(_timed(lambda: _create(theirs, contents)))  # noqa: B023
    print_and_leave({"jobs": len(contents), "written": written, "bare": bare})


def _create(directory: Path, contents: dict[str, bytes]) -> None:
    for folder in range(_FOLDERS):
        (directory / str(folder)).mkdir(parents=True)
    for name, content in contents.items():
        with open(f"{directory}/{name}", "wb") as file:  # noqa: PTH123  bare
            file.write(content)


def _balance(jobs: int = 500, seeds: int = 50) -> None:
    """Compare the heaviest folder with the least possible for heavy-tailed sizes."""
    by_count, by_size = [], []
    for seed in range(seeds):
        numbers = random.Random(seed)
        sizes = [int(1e6 * numbers.lognormvariate(0, 2)) + 1 for _ in range(jobs)]
        by_count.append(_heaviest(share(jobs, _FOLDERS, None), sizes))
        by_size.append(_heaviest(share_by_size(sizes, _FOLDERS, None), sizes))
    print_and_leave(
        {
            "count": _summary(by_count),
            "size": _summary(by_size),
            "size where count is above 1.5": _summary([s for c, s in zip(by_count, by_size, strict=True) if c > 1.5]),
        }
    )


def _summary(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def _heaviest(shares: Shares, sizes: list[int]) -> float:
    least_possible = max(max(sizes), sum(sizes) / _FOLDERS)
    return max(sum(sizes[number] for number in one) for one in shares) / least_possible


if __name__ == "__main__":
    gc.set_threshold(main.OBJECTS_UNTIL_A_LOOK_FOR_CIRCLES)  # as a run has it
    what, *arguments = sys.argv[1:]
    if what == "list":
        shape, count = arguments
        selected = _assets(shape, int(count))
        report(lambda: _list(shape, selected))
    elif what == "measure":
        shape, count = arguments
        selected = _assets(shape, int(count))
        report(lambda: _measure(shape, selected))
    elif what == "bare":
        report(lambda: _bare(arguments[0], int(arguments[1])))
    elif what == "write":
        _write(Path(arguments[0]), int(arguments[1]), int(arguments[2]))
    else:
        _balance()
