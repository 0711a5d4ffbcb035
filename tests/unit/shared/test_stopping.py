"""Work done together: the first failure ends the rest, and the caller is as it was."""

from __future__ import annotations

import asyncio

import pytest

from lain_shared.errors import Unavailable
from lain_shared.stopping import together


async def test_all_of_it_is_done() -> None:
    done: list[int] = []

    async def one(number: int) -> None:
        await asyncio.sleep(0)
        done.append(number)

    await together(one(1), one(2), one(3))
    await together()
    assert done == [1, 2, 3]


async def test_a_failure_ends_the_rest_and_leaves_the_caller_able_to_wait() -> None:
    """On Debian 12's Python a ``TaskGroup`` that failed left its caller counted as cancelled: the next time-out ended the agent."""
    ended: list[str] = []

    async def fails() -> None:
        await asyncio.sleep(0)
        raise Unavailable("etcd is away")

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("waits")

    with pytest.raises(Unavailable):
        await together(fails(), waits())
    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0
    assert ended == ["waits"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)


async def test_cancelling_the_caller_cancels_all_of_it() -> None:
    ended: list[int] = []

    async def waits(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    task = asyncio.create_task(together(waits(1), waits(2)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [1, 2]
