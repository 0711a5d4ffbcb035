"""Keeps pods from filling the Engine's disk: one that writes too much beside its volumes is ended, and made anew without what it wrote.

A disk has no limit for one container that every Engine could set, so it is looked at: how much is free every second, which costs nothing;
what each pod has written only when that shrank. Volumes are never touched: their data are meant to stay.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from lain_deployd.agent.engine import Engine
from lain_deployd.agent.keeper import Keeper
from lain_shared.errors import LainError
from lain_shared.model.pod import PodId
from lain_shared.stopping import together

log = structlog.get_logger()

LOOK_SECONDS = 1.0
GROWN_PERCENT = 1.0
"""So much less room on the disk than when pods were last measured: they are measured again."""
MEASURE_SECONDS = 60.0
"""Above the mark, or while of one nobody knows how much it wrote, they are measured this often although nothing grew."""
LEAST_PERCENT = 1.0
"""What takes less of the disk than this is not what fills it."""
FULL_PERCENT = 95.0
"""Soon nobody can write: whoever wrote most goes, even if that is not enough."""
PARALLEL = 4
PATIENCE_SECONDS = 60.0
"""A container is counted file by file: one with millions of them must not be in the way of the others, nor of the loop."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system. ``used_bytes`` is what others cannot have."""

    total_bytes: int
    used_bytes: int

    def percent(self, size_bytes: float) -> float:
        return 100.0 * size_bytes / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Written:
    """What a pod's container has written outside its volumes."""

    pod: PodId
    container: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Discard:
    """A container that has to go with all it wrote, and why."""

    pod: PodId
    container: str
    because: str


def to_discard(
    disk: Disk, written: Iterable[Written], *, share_percent: float, high_percent: float
) -> tuple[Discard, ...]:
    """Whoever is above its share; and while the disk stays above the mark, whoever wrote most (pure).

    Unless it is full, nobody goes in vain: where strangers or volumes fill the disk, ending pods makes no room.
    """
    used, found = disk.used_bytes, []
    written = sorted(written, key=lambda one: (-one.size_bytes, one.pod))
    large = sum(one.size_bytes for one in written if disk.percent(one.size_bytes) >= LEAST_PERCENT)
    helps = disk.percent(used - large) <= high_percent or disk.percent(used) >= FULL_PERCENT
    for one in written:
        percent, full = disk.percent(one.size_bytes), disk.percent(used)
        if percent > share_percent:
            why = f"a pod may have {share_percent:g} %"
        elif helps and full > high_percent and percent >= LEAST_PERCENT:
            why = f"the disk is {full:.0f} % full, and it wrote more than others"
        else:
            continue
        text = f"its files outside volumes take {one.size_bytes // MIB} MiB, {percent:.0f} % of the node's disk: {why}"
        found.append(Discard(one.pod, one.container, text))
        used -= one.size_bytes
    return tuple(found)


class Pressure:
    """One pass looks at the Engine's disk, and tells the keeper whose containers have to go. ``look`` None: nobody knows which disk."""

    def __init__(
        self,
        engine: Engine,
        keeper: Keeper,
        *,
        look: Callable[[], Disk | None],
        clear_images: Callable[[], Awaitable[None]],
        share_percent: float,
        high_percent: float,
        clock: Callable[[], float] = time.monotonic,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._engine, self._keeper = engine, keeper
        self._share_percent, self._high_percent = share_percent, high_percent
        self._look, self._clear_images, self._clock = look, clear_images, clock
        self._measured_at = float("-inf")
        self._used_then = 0
        self._patience_seconds = patience_seconds
        self._unknown: frozenset[PodId] = frozenset()
        """Pods of which it could not be counted what they wrote."""

    async def one_pass(self, *, known: bool) -> float:
        """Returns when to look again. ``known``: the Engine answers, and every container of ours is known."""
        disk = self._look()
        if disk is None:
            return LOOK_SECONDS
        self._used_then = min(self._used_then, disk.used_bytes)
        if known and self._is_due(disk):
            if self._is_above_mark(disk):
                await self._clear_images()  # they can be had again, what a pod wrote cannot
                disk = self._look() or disk
            written = await self._measure()
            self._measured_at, self._used_then = self._clock(), disk.used_bytes
            for one in to_discard(disk, written, share_percent=self._share_percent, high_percent=self._high_percent):
                if self._keeper.discard(one.pod, one.container, one.because):
                    log.warning("pod_fills_disk", pod=str(one.pod), because=one.because)
                    self._used_then = 0  # look soon whether it helped
        return LOOK_SECONDS

    def _is_due(self, disk: Disk) -> bool:
        if disk.percent(disk.used_bytes - self._used_then) >= GROWN_PERCENT:
            return True
        matters = bool(self._unknown) or self._is_above_mark(disk)
        return matters and self._clock() - self._measured_at >= MEASURE_SECONDS

    def _is_above_mark(self, disk: Disk) -> bool:
        return disk.percent(disk.used_bytes) > self._high_percent

    async def _measure(self) -> list[Written]:
        """What pods have written, of those of which it can be counted in time; the others are counted anew soon, and then last."""
        running = {pod: here[0].id for pod, here in self._keeper.containers.items() if here}
        unknown = dict.fromkeys(running, f"not counted within {self._patience_seconds:g} s")
        found: list[Written] = []
        gate = asyncio.Semaphore(PARALLEL)

        async def count(pod: PodId) -> None:
            async with gate:
                try:
                    size = await self._engine.layer_bytes(running[pod])
                except LainError as error:  # its own trouble: the others are counted
                    unknown[pod] = error.why or error.message
                else:
                    del unknown[pod]
                    found.append(Written(pod, running[pod], size or 0))

        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience_seconds):
                await together(*(count(pod) for pod in sorted(running, key=lambda pod: pod in self._unknown)))
        self._unknown = frozenset(unknown)
        if unknown:
            pod, why = next(iter(unknown.items()))
            log.warning("pods_not_measured", count=len(unknown), pod=str(pod), why=why)
        return found


def disk_of(path: Path) -> Disk:
    """The file system that ``path`` is on, as it is now."""
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, (found.f_blocks - found.f_bavail) * found.f_frsize)
