"""Work that is done side by side, within one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
