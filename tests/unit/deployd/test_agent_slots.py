"""``Slots``: never more at a time than there are, starts before creates, and none lost whoever gives up."""

from __future__ import annotations

import asyncio
import random

import pytest

from lain_deployd.agent.slots import Slots, Turn


async def test_starts_go_before_creates_that_wait_and_each_in_order() -> None:
    slots, order = Slots(1), []

    async def use(turn: Turn, name: str) -> None:
        async with slots.one(turn):
            order.append(name)

    async with slots.one(Turn.CREATE):
        waiting = [
            asyncio.create_task(use(turn, name))
            for turn, name in ((Turn.CREATE, "c1"), (Turn.CREATE, "c2"), (Turn.START, "s1"), (Turn.START, "s2"))
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == ["s1", "s2", "c1", "c2"]


@pytest.mark.parametrize("seed", range(5))
async def test_none_is_lost_and_none_is_given_twice_whoever_is_cancelled(seed: int) -> None:
    dice, slots, inside, most = random.Random(seed), Slots(3), 0, 0  # noqa: S311 - a seeded test

    async def use() -> None:
        nonlocal inside, most
        async with slots.one(dice.choice(list(Turn))):
            inside += 1
            most = max(most, inside)
            try:
                for _ in range(dice.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1

    tasks = [asyncio.create_task(use()) for _ in range(60)]
    while not all(task.done() for task in tasks):
        if dice.random() < 0.4:
            dice.choice(tasks).cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert inside == 0 and most <= 3
    async with asyncio.timeout(1), slots.one(Turn.CREATE), slots.one(Turn.CREATE), slots.one(Turn.START):
        pass  # all three are there again
