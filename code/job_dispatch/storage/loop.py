"""Running coroutines to their end, wherever that is asked for: in a script, a thread, or a cell of a notebook."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

from job_dispatch.storage.keys import THREADS

Result = TypeVar("Result")


class _DaemonThreads(ThreadPoolExecutor):
    """Threads that nobody waits for, not even the interpreter at its end: one may wait for an answer for a minute."""

    def __init__(self, at_most: int) -> None:
        super().__init__(at_most)
        self._left = at_most
        self._asked = SimpleQueue[Callable[[], None] | None]()
        self._idle = threading.Semaphore(0)

    def submit(self, function: Callable[..., Result], /, *args: Any, **options: Any) -> Future[Result]:
        answer: Future[Result] = Future()

        def call() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function(*args, **options))
                except BaseException as error:
                    answer.set_exception(error)

        self._asked.put(call)
        if self._left and not self._idle.acquire(blocking=False):
            self._left -= 1
            threading.Thread(target=self._work, name="asking", daemon=True).start()
        return answer

    def _work(self) -> None:
        while True:
            try:
                call = self._asked.get_nowait()
            except Empty:
                self._idle.release()
                call = self._asked.get()
            if call is None:
                self._asked.put(None)  # for the next thread
                return
            call()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._asked.put(None)


class Loop:
    """An event loop in a thread of its own, since a notebook runs one in the caller's; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_DaemonThreads(THREADS))
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
