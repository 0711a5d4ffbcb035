"""A key family in memory: whole, or not yet. Lists decide, watches hurry.

List at revision R, watch from R + 1; list again when history was compacted, the watch ended, or nothing (not even a sign of life) came
for ``silence_seconds``. Because etcd 3.4 before 3.4.36 can lose watch events, every ``resync_seconds`` what changed since the last list is
read by one range and the keys are counted: together that is what a whole list would say, and a family at rest costs next to nothing. Only
when that is not what the watch told, and every ``FULL_EVERY`` times, the family is listed in full and watched anew. What is known is kept
while the store is away: unknown is not empty.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Generic, TypeVar

import structlog

from lain_shared.errors import Compacted, LainError, Unavailable
from lain_shared.records import BadRecord, Records, Stored
from lain_shared.stopping import until_stopped
from lain_shared.store import Change, Entry, Listing

T = TypeVar("T")
log = structlog.get_logger()

MAX_BACKOFF_SECONDS = 1.0
FULL_EVERY = 10
"""A store that was restored from a backup, and has gone on since, is the same by revisions and count and yet another."""


class NotYetWhole(Unavailable):
    """The first list is not in: unknown is not empty."""

    code = "not_ready"


class Mirror(Generic[T]):
    """Background part (``name``, ``ready``, ``run()``, ``stop()``). ``on_change`` carries no data: look again.

    ``on_change`` is called once the mirror is whole, and after every list or batch of watch events that changed something.
    ``under`` restricts it to keys whose first parts are these (an agent mirrors only its own node's assignments).
    ``bad``: key → why, for every record that cannot be read; the others are served. A record that turns bad keeps its last good
    value in ``snapshot`` if ``keep_last_good`` (default), because unknown is not absent.
    """

    def __init__(
        self,
        records: Records[T],
        *,
        under: tuple[str | int, ...] = (),
        on_change: Callable[[], None] = lambda: None,
        resync_seconds: float = 30.0,
        silence_seconds: float = 30.0,
        keep_last_good: bool = True,
    ) -> None:
        self.name = f"mirror:{records.family.name}"
        self.records = records
        self.prefix = records.family.under(*under)
        self.bad: dict[str, str] = {}
        self._on_change = on_change
        self._resync_seconds = resync_seconds
        self._silence_seconds = silence_seconds
        self._keep_last_good = keep_last_good
        self._entries: dict[str, Entry] = {}
        self._stored: dict[str, Stored[T]] = {}
        self._whole = False
        self._revision = 0
        self._listed = 0
        """Up to this revision the memory is what the store itself listed, whatever a watch may have lost."""
        self._stopped = asyncio.Event()
        self._synced = asyncio.Event()
        self._advanced = asyncio.Event()
        self._failures = 0
        self._trouble = ""
        self.last_heard = 0.0
        """Monotonic time of the last sign of life."""

    @property
    def ready(self) -> bool:
        return self._whole

    @property
    def why_not_ready(self) -> str:
        """Why ``ready`` is false, for ``/readyz``; "" when it is true."""
        return "" if self._whole else self._trouble or "the first list is not in"

    @property
    def trouble(self) -> str:
        """Why the store cannot be followed right now ("" when it can); the snapshot is then the last one known."""
        return self._trouble

    @property
    def revision(self) -> int:
        """Everything of this family up to this store revision is in the snapshot."""
        return self._revision

    def snapshot(self) -> Mapping[str, Stored[T]]:
        """Key → record. Raises ``NotYetWhole`` before the first list is in. A new mapping each time: yours to keep."""
        self._require_whole()
        return dict(self._stored)

    def get(self, *parts: str | int) -> Stored[T] | None:
        """One record; raises ``NotYetWhole`` before the first list is in."""
        self._require_whole()
        return self._stored.get(self.records.family.key(*parts))

    async def wait_whole(self) -> None:
        await self._synced.wait()

    async def wait_until(self, revision: int) -> None:
        """Wait until a write to this family at ``revision`` is in the snapshot.

        For a revision made elsewhere in the store this may take until the next resync: use ``catch_up`` then.
        """
        while not (self._whole and self._revision >= revision):
            await self._advanced.wait()

    async def catch_up(self) -> int:
        """Read, linearizably, what changed since ``revision``; returns the store revision the snapshot then answers for.

        One range above the known revision plus a count of the keys; a differing count (something was deleted) lists in full. Raises
        ``Unavailable`` and the like: the snapshot is then as it was.
        """
        known = self._revision
        if self._whole and (listing := await self._read_since(known)) is not None:
            self._take(listing, known)
        else:
            self._take(await self.records.store.list(self.prefix), known, listed=True)
        return self._revision

    async def run(self) -> None:
        await until_stopped(self._stopped, self._follow())

    def stop(self) -> None:
        self._stopped.set()

    # --- following the store ------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            try:
                known = self._revision
                self._take(await self.records.store.list(self.prefix), known, listed=True)
                self._recover()
                await self._watch()
            except Compacted:
                log.info("watch_compacted", mirror=self.name, revision=self._revision)
            except LainError as error:
                self._note(error)
                await asyncio.sleep(self._backoff())

    async def _watch(self) -> None:
        """Follow the watch until a resync finds what it had not told, a full one is due, or nothing was heard for too long."""
        heard = time.monotonic()
        resync_at, resyncs = heard + self._until_resync(), 1
        watch = self.records.store.watch(self.prefix, start_revision=self._revision + 1)
        async with aclosing(watch) as batches:
            upcoming = asyncio.ensure_future(anext(batches, None))
            try:
                while True:
                    silent_at = heard + self._silence_seconds
                    left = min(resync_at, silent_at) - time.monotonic()
                    if left > 0:
                        if not (await asyncio.wait({upcoming}, timeout=left))[0]:
                            continue
                        if (batch := upcoming.result()) is None:
                            return
                        upcoming = asyncio.ensure_future(anext(batches, None))
                        heard = time.monotonic()
                        self._heard()
                        if batch.items:
                            self._apply(batch.items)
                    elif silent_at < resync_at:
                        log.warning("watch_silent", mirror=self.name, seconds=self._silence_seconds)
                        return
                    elif resyncs == FULL_EVERY or not await self._resync():
                        return
                    else:
                        resync_at, resyncs = time.monotonic() + self._until_resync(), resyncs + 1
            finally:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)

    def _until_resync(self) -> float:
        return self._resync_seconds * (0.9 + random.random() / 5)  # noqa: S311 - jitter

    async def _resync(self) -> bool:
        """Make sure that the watch lost nothing since the last list. False: it did, or that cannot be told."""
        known = self._revision
        listing = await self._read_since(self._listed)
        return listing is not None and listing.revision >= known and not self._take(listing, known, listed=True)

    async def _read_since(self, since: int) -> Listing | None:
        """What the store holds: what changed after ``since``, upon what was known then. None when the count of keys says otherwise."""
        listing, count = await self.records.store.list_since(self.prefix, since)
        kept = {key: entry for key, entry in self._entries.items() if entry.mod_revision <= since}
        kept.update((entry.key, entry) for entry in listing.entries)
        if len(kept) != count or listing.revision < since:
            return None
        return Listing(listing.revision, tuple(kept.values()))

    def _backoff(self) -> float:
        limit = min(0.05 * 2.0 ** min(self._failures, 16), MAX_BACKOFF_SECONDS)
        return limit * (0.5 + random.random() / 2)  # noqa: S311 - jitter

    def _note(self, error: LainError) -> None:
        self._failures += 1
        self._trouble = error.message
        if self._failures == 1 or self._failures % 100 == 0:  # once an episode, then rarely
            log.warning(
                "mirror_cannot_follow", mirror=self.name, code=error.error_code, error=error.message, why=error.why
            )

    def _recover(self) -> None:
        if self._failures:
            log.info("mirror_recovered", mirror=self.name, failures=self._failures)
        self._failures, self._trouble = 0, ""

    # --- what is known ------------------------------------------------------------------------------------------------

    def _take(self, listing: Listing, known: int, *, listed: bool = False) -> bool:
        """Make the memory equal to ``listing``, asked for when the memory stood at ``known``; whether that changed anything.

        ``listed``: what it says was all listed by the store, nothing of it only told by a watch.
        """
        self._heard()
        if listing.revision < known:
            log.warning("store_went_back", mirror=self.name, known_revision=known, revision=listing.revision)
        elif listing.revision < self._revision:
            return False  # the memory advanced while the list was under way
        if listed:
            self._listed = listing.revision
        now_there = {entry.key: entry for entry in listing.entries}
        changed = self._drop(self._entries.keys() - now_there.keys())
        for key, entry in now_there.items():
            held = self._entries.get(key)
            if held is None or held.mod_revision != entry.mod_revision or held.value != entry.value:
                self._learn(entry)
                changed = True
        first = not self._whole
        self._whole = True
        self._synced.set()
        self._advance(listing.revision, changed=changed or first)
        return changed

    def _apply(self, changes: Iterable[Change]) -> None:
        changed = False
        revision = self._revision
        for change in changes:
            if change.revision <= self._revision:
                continue  # a list was ahead of the watch
            revision = change.revision
            if change.value is None:
                changed |= self._drop([change.key])
            else:
                entry = Entry(change.key, change.value, change.create_revision, change.revision, change.lease)
                self._learn(entry)
                changed = True
        self._advance(revision, changed=changed)

    def _learn(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        try:
            self.records.family.parse(entry.key)
            self._stored[entry.key] = Stored(self.records.decode(entry.key, entry.value), entry)
        except (BadRecord, ValueError) as error:
            why = getattr(error, "why", "")
            self.bad[entry.key] = f"{error}: {why}" if why else str(error)
            log.error("record_unreadable", mirror=self.name, key=entry.key, error=self.bad[entry.key])
            if not self._keep_last_good:
                self._stored.pop(entry.key, None)
        else:
            self.bad.pop(entry.key, None)

    def _drop(self, keys: Iterable[str]) -> bool:
        dropped = False
        for key in list(keys):
            dropped |= self._entries.pop(key, None) is not None
            self._stored.pop(key, None)
            self.bad.pop(key, None)
        return dropped

    def _advance(self, revision: int, *, changed: bool) -> None:
        self._revision = revision
        self._advanced.set()
        self._advanced = asyncio.Event()
        if changed:
            self._on_change()

    def _heard(self) -> None:
        self.last_heard = time.monotonic()

    def _require_whole(self) -> None:
        if not self._whole:
            raise NotYetWhole(
                f"{self.records.family.prefix} has not been read from {self.records.store.where} yet",
                why=self._trouble or "it has not answered so far",
                next="lainctl doctor",
                retry_seconds=1.0,
            )
