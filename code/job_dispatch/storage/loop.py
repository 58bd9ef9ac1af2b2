"""Running coroutines to their end, wherever that is asked for: in a script, a thread, or a cell of a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from job_dispatch.storage.keys import THREADS

Result = TypeVar("Result")


class _Threads(ThreadPoolExecutor):
    """Threads that nobody waits for: what ends a run is told at once, though one waits for an answer."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class Loop:
    """An event loop in a thread of its own, since a notebook runs one in the caller's; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Threads(THREADS))
        self._thread = threading.Thread(target=self._loop.run_forever, name="listing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.submit(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def submit(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end; Ctrl-C ends it at once, whatever blocking calls it has made in threads."""
    with Loop() as loop:
        return loop.submit(work).result()


@asynccontextmanager
async def tasks_side_by_side() -> AsyncIterator[asyncio.TaskGroup]:
    """Wait for all tasks of a group; the first one that fails cancels the others, and its error is raised as it is.

    Everywhere else a bare `asyncio.TaskGroup` would raise a group of errors, which no `except` of a single one meets.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
