"""So many of the Engine's costly calls at a time; of those that wait, what finishes a pod goes before what begins another."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum


class Turn(IntEnum):
    """Who goes first. Fifty pods at once would otherwise all be made before the first of them starts."""

    START = 0
    CREATE = 1


class Slots:
    """``async with slots.one(Turn.START)``. Fair within a turn: who came first goes first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: list[tuple[Turn, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def one(self, turn: Turn) -> AsyncIterator[None]:
        await self._take(turn)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, turn: Turn) -> None:
        if self._free > 0:
            self._free -= 1
            return
        given: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._numbers), given))
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self._give_back()  # it was given at the very moment nobody wanted it any more
            raise

    def _give_back(self) -> None:
        while self._waiting:
            _, _, given = heapq.heappop(self._waiting)
            if not given.done():
                given.set_result(None)  # handed on, never free in between: nobody overtakes
                return
        self._free += 1
