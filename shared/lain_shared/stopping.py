"""Where work is cancelled: because a background part is told to stop, or because what it was done together with failed."""

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


async def together(*work: Coroutine[None, None, None]) -> None:
    """Run all of it at once, to its end. The first failure cancels the rest, and is raised once all have ended.

    Not ``asyncio.TaskGroup``: in Python 3.11 a child's failure leaves the caller's task counted as cancelled, and up to 3.11.3 (Debian 12
    has 3.11.2) the next ``asyncio.timeout`` that runs out then ends that task, and with it the daemon.
    """
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
