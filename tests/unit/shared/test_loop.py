"""``Loop``: when it runs, and how much of the processor it takes."""

from __future__ import annotations

import asyncio
import time

from lain_shared.loop import MAX_REST_SECONDS, Loop
from lain_shared.testing import eventually


async def test_a_wake_while_it_rests_is_seen_by_one_pass_after_the_rest() -> None:
    began: list[float] = []
    ended: list[float] = []
    used: list[float] = []

    async def one_pass() -> None:
        began.append(time.monotonic())
        since = time.thread_time()
        while time.thread_time() - since < 0.004:
            pass
        used.append(time.thread_time() - since)
        ended.append(time.monotonic())

    loop = Loop("busy", one_pass, duty=0.25)
    running = asyncio.create_task(loop.run())
    try:
        while len(began) < 4:
            loop.wake()  # again and again: only the first may count
            await asyncio.sleep(0.001)
    finally:
        loop.stop()
        await running
    rests = [after - before for before, after in zip(ended, began[1:], strict=False)]
    assert all(rest >= min(3 * cpu, MAX_REST_SECONDS) - 0.0005 for rest, cpu in zip(rests, used, strict=False))


async def test_a_pass_that_waited_for_others_does_not_rest() -> None:
    passes = 0

    async def one_pass() -> None:
        nonlocal passes
        passes += 1
        await asyncio.sleep(0.2)  # used next to nothing of the processor

    loop = Loop("waiting", one_pass, duty=0.25)
    running = asyncio.create_task(loop.run())
    try:
        await eventually(lambda: passes == 1, what="the first pass")
        loop.wake()
        await eventually(lambda: passes == 2, what="the second")
    finally:
        loop.stop()
        await running


async def test_it_rests_no_longer_than_it_may_wait() -> None:
    """What a pass wants to look at again soon is looked at after its rest, and a stop ends the rest."""
    passes = 0

    async def one_pass() -> float:
        nonlocal passes
        passes += 1
        return 0.0

    loop = Loop("due", one_pass, duty=0.5)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: passes > 2, what="passes that are due at once")
    loop.stop()
    await running
