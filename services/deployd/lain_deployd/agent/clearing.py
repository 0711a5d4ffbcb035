"""Images go when the disk that the Engine keeps them on fills up; never one that a pod needs, or that an app may go back to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from lain_deployd.agent.images import Images
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.kept import Kept
from lain_deployd.agent.pods import Order
from lain_deployd.agent.pressure import Disk
from lain_deployd.agent.spec import reference_of


class Clearing:
    """``one_pass`` may be asked for by anybody at any time. ``look``: the Engine's disk; None: nobody knows which it is."""

    def __init__(
        self,
        keeper: Keeper,
        images: Images,
        kept: Kept,
        *,
        reachable: Callable[[], bool],
        look: Callable[[], Disk | None],
        high_percent: float,
        registry: str,
    ) -> None:
        self._keeper, self._images, self._kept = keeper, images, kept
        self._reachable, self._look = reachable, look
        self._high_percent, self._registry = high_percent, registry
        self.on_cleared: Callable[[], None] = lambda: None
        self._one_at_a_time = asyncio.Lock()

    async def one_pass(self) -> None:
        """On missing evidence nothing is removed: all orders are known, and what may be gone back to is asked for now."""
        async with self._one_at_a_time:
            if self._reachable() and self._keeper.whole:
                await self._clear()

    async def _clear(self) -> None:
        if not self._is_full() or not self._images.used.keys() - self._images_of(self._keeper.orders.values()):
            self._kept.bad = {}  # who asks for nothing minds no record
            return
        kept = await self._kept.read(self._images_of(one for one in self._keeper.orders.values() if one.assignment.run))
        if kept is None:
            return
        if await self._images.clear(self._images_of(self._keeper.orders.values()) | kept, self._is_full):
            self.on_cleared()

    def _images_of(self, orders: Iterable[Order]) -> frozenset[str]:
        return frozenset(reference_of(order.assignment.template.image, self._registry) for order in orders)

    def _is_full(self) -> bool:
        disk = self._look()
        return disk is not None and disk.percent(disk.used_bytes) > self._high_percent
