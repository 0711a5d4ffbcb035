"""A key family in memory: whole, or not yet. Lists decide, watches hurry.

List at revision R, watch from R + 1; list again when history was compacted, the watch ended, or nothing (not even a sign of life) came for
``silence_seconds``; and in full every ``resync_seconds``, because etcd 3.4 before 3.4.36 can lose watch events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Generic, TypeVar

import structlog

from lain_shared.errors import Compacted, LainError, Unavailable
from lain_shared.records import Records, Stored
from lain_shared.store import Change, Entry, Listing

T = TypeVar("T")
log = structlog.get_logger()


class NotYetWhole(Unavailable):
    """The first list is not in: unknown is not empty."""

    code = "not_ready"


class Mirror(Generic[T]):
    """Background part (``name``, ``ready``, ``run()``, ``stop()``). ``on_change`` carries no data: look again.

    ``bad``: key → why, for every record that cannot be read; the others are served. A record that turns bad keeps its last good
    value in ``snapshot`` if ``keep_last_good`` (default), because unknown is not absent.
    """

    def __init__(
        self,
        records: Records[T],
        *,
        on_change: Callable[[], None] = lambda: None,
        resync_seconds: float = 30.0,
        silence_seconds: float = 30.0,
        keep_last_good: bool = True,
    ) -> None:
        self.name = f"mirror:{records.family.name}"
        self.records = records
        self.bad: dict[str, str] = {}
        self._on_change = on_change
        self._resync_seconds = resync_seconds
        self._silence_seconds = silence_seconds
        self._keep_last_good = keep_last_good
        self._stored: dict[str, Stored[T]] = {}
        self._whole = False
        self._revision = 0
        self._stopped = asyncio.Event()
        self._synced = asyncio.Event()
        self.last_heard = 0.0
        """Monotonic time of the last sign of life."""

    @property
    def ready(self) -> bool:
        return self._whole

    @property
    def revision(self) -> int:
        """Everything up to this store revision is in the snapshot."""
        return self._revision

    def snapshot(self) -> Mapping[str, Stored[T]]:
        """Key → record. Raises ``NotYetWhole`` before the first list is in. A new mapping each time: yours to keep."""
        if not self._whole:
            raise NotYetWhole(f"the {self.records.family.name} family has not been read yet", retry_seconds=1.0)
        return dict(self._stored)

    def get(self, *parts: str | int) -> Stored[T] | None:
        """One record; raises ``NotYetWhole`` before the first list is in."""
        if not self._whole:
            raise NotYetWhole(f"the {self.records.family.name} family has not been read yet", retry_seconds=1.0)
        return self._stored.get(self.records.family.key(*parts))

    async def wait_whole(self) -> None:
        await self._synced.wait()
