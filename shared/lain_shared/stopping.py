"""Running a piece of work until a background part is told to stop: the one place where ``stop()`` turns into a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def until_stopped(stopped: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run ``work`` until it ends or ``stopped`` is set, whichever is first; what it raises is raised. It has ended on return."""
    task = asyncio.create_task(work)
    waiter = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        task.cancel()
        waiter.cancel()
        await asyncio.gather(task, waiter, return_exceptions=True)
