"""``MemoryStore``: the ``Store`` protocol without a server, for tests of everything that reads or writes etcd.

It passes the same contract suite as ``EtcdStore`` (``tests/contract/test_store.py``): revisions, transactions, leases, watches and
compaction are etcd's. Beyond the protocol it offers what a test needs to provoke: ``outage``, ``uncertain_next``, ``compact``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from lain_shared.errors import Compacted, Conflict, Invalid, LeaseLost, Unavailable, Uncertain
from lain_shared.store import (
    Change,
    Changes,
    CreateRevision,
    Delete,
    Entry,
    Exists,
    Expectation,
    Lease,
    Listing,
    ModRevision,
    Put,
    Write,
)

POLL_SECONDS = 0.05
"""How often a watch looks at the clock for expired leases, when nothing else wakes it."""


@dataclass(slots=True)
class _HeldLease:
    ttl_seconds: float
    deadline: float
    keys: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Watch:
    """A watch that stands: what is on its way to it, and the first revision it has not been sent."""

    prefix: str
    unread: int
    pending: list[Change] = field(default_factory=list)


class MemoryStore:
    """A store in memory. ``clock`` gives seconds; leases end by it (a ``ManualClock`` ends them when it is advanced)."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, progress_seconds: float = 1.0) -> None:
        self._clock = clock
        self._progress_seconds = progress_seconds
        self._entries: dict[str, Entry] = {}
        self._leases: dict[int, _HeldLease] = {}
        self._history: list[tuple[int, tuple[Change, ...]]] = []
        self._revision = 1
        self._compacted = 0
        self._next_lease = 7_000
        self._away = False
        self._uncertain: list[bool] = []
        self._changed = asyncio.Event()
        self._watches: list[_Watch] = []

    async def __aenter__(self) -> MemoryStore:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    # --- what a test may provoke --------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The store's revision now."""
        self._expire()
        return self._revision

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While inside, every call raises ``Unavailable`` and watches are silent; leases go on running out."""
        self._away = True
        try:
            yield
        finally:
            self._away = False
            self._wake()

    def uncertain_next(self, *, applied: bool) -> None:
        """The next write raises ``Uncertain``, and was (or was not) applied all the same."""
        self._uncertain.append(applied)

    def compact(self, revision: int | None = None) -> None:
        """Forget history up to and including ``revision`` (default: all of it): a watch from there gets ``Compacted``."""
        if not self._away:
            for watch in self._watches:  # a watch that stands was sent everything before
                self._send(watch)
        self._compacted = self._revision if revision is None else revision
        self._history = [item for item in self._history if item[0] > self._compacted]
        self._wake()

    @property
    def where(self) -> str:
        return "a store in memory"

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        await self._reach()
        return self._entries.get(key)

    async def list(self, prefix: str) -> Listing:
        await self._reach()
        return Listing(self._revision, self._under(prefix))

    async def list_since(self, prefix: str, revision: int) -> tuple[Listing, int]:
        await self._reach()
        entries = self._under(prefix)
        return Listing(self._revision, tuple(entry for entry in entries if entry.mod_revision > revision)), len(entries)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        return await self.txn([] if expect is None else [ModRevision(key, expect)], [Put(key, value, lease)])

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        await self._reach()
        expectations = [] if expect is None else [ModRevision(key, expect)]
        existed = key in self._entries
        self._write(expectations, [Delete(key)])
        return existed

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        await self._reach()
        return self._write(expect, writes)

    # --- watching -----------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[Changes, None]:
        upcoming = start_revision or self._revision + 1
        if 0 < start_revision <= self._compacted:
            raise self._compaction(start_revision)
        watch = _Watch(prefix, upcoming)
        self._watches.append(watch)
        try:
            if not self._away:
                yield Changes(upcoming - 1, ())
            async with aclosing(self._sent_to(watch)) as sent:
                async for items in sent:
                    if items:
                        upcoming = items[-1].revision + 1
                    yield Changes(upcoming - 1, items)
        finally:
            self._watches.remove(watch)

    async def _sent_to(self, watch: _Watch) -> AsyncGenerator[tuple[Change, ...], None]:
        last_sign = time.monotonic()
        while True:
            changed = self._changed
            self._expire()
            if not self._away:
                if not watch.pending:
                    if watch.unread <= self._compacted:
                        raise self._compaction(watch.unread)
                    self._send(watch)
                if watch.pending or time.monotonic() - last_sign >= self._progress_seconds:
                    items, watch.pending = tuple(watch.pending), []
                    last_sign = time.monotonic()
                    yield items
                    continue
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await changed.wait()
            except TimeoutError:
                continue

    # --- leases -------------------------------------------------------------------------------------------------------

    async def grant(self, ttl_seconds: int, *, lease_id: int = 0) -> Lease:
        await self._reach()
        if lease_id in self._leases:
            raise Conflict(f"lease {lease_id:x} exists already", code="lease_exists")
        if not lease_id:
            self._next_lease += 1
            lease_id = self._next_lease
        self._leases[lease_id] = _HeldLease(float(ttl_seconds), self._clock() + ttl_seconds)
        return Lease(lease_id, float(ttl_seconds))

    async def keep_alive(self, lease_id: int) -> float:
        await self._reach()
        lease = self._leases.get(lease_id)
        if lease is None:
            raise LeaseLost(f"lease {lease_id:x} is gone")
        lease.deadline = self._clock() + lease.ttl_seconds
        return lease.ttl_seconds

    async def revoke(self, lease_id: int) -> None:
        await self._reach()
        self._end_lease(lease_id)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _reach(self) -> None:
        await asyncio.sleep(0)  # a real store would let others run here
        self._expire()
        if self._away:
            raise Unavailable("the store is away", retry_seconds=1.0)

    def _under(self, prefix: str) -> tuple[Entry, ...]:
        return tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))

    def _holds(self, expectation: Expectation) -> bool:
        entry = self._entries.get(expectation.key)
        match expectation:
            case ModRevision(_, revision):
                return (entry.mod_revision if entry else 0) == revision
            case CreateRevision(_, revision):
                return (entry.create_revision if entry else 0) == revision
            case Exists():
                return entry is not None

    def _write(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        put_keys = [write.key for write in writes if isinstance(write, Put)]
        deleted_keys = {write.key for write in writes if isinstance(write, Delete)}
        if len(put_keys) != len(set(put_keys)) or deleted_keys.intersection(put_keys):
            raise Invalid("a transaction names one key twice", code="duplicate_key")
        if self._uncertain:
            if self._uncertain.pop(0):
                self._apply(expect, writes)
            raise Uncertain("the write was sent and its fate is unknown")
        if not self._apply(expect, writes):
            failed = next(expectation for expectation in expect if not self._holds(expectation))
            raise Conflict(f"{failed.key} is not as expected", evidence={"key": failed.key})
        return self._revision

    def _apply(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> bool:
        if not all(self._holds(expectation) for expectation in expect):
            return False
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseLost(f"lease {write.lease:x} is gone")
        revision = self._revision + 1
        changes = []
        for write in writes:
            previous = self._entries.get(write.key)
            if isinstance(write, Delete):
                if previous is None:
                    continue
                del self._entries[write.key]
                self._detach(previous)
                changes.append(Change(write.key, None, revision))
                continue
            created = previous.create_revision if previous else revision
            if previous:
                self._detach(previous)
            self._entries[write.key] = Entry(write.key, write.value, created, revision, write.lease)
            if write.lease:
                self._leases[write.lease].keys.add(write.key)
            changes.append(Change(write.key, write.value, revision, created, write.lease))
        if changes:
            self._revision = revision
            self._history.append((revision, tuple(changes)))
            self._wake()
        return True

    def _detach(self, entry: Entry) -> None:
        if entry.lease in self._leases:
            self._leases[entry.lease].keys.discard(entry.key)

    def _end_lease(self, lease_id: int) -> None:
        lease = self._leases.get(lease_id)
        if lease is not None:
            self._apply([], [Delete(key) for key in sorted(lease.keys)])
            del self._leases[lease_id]

    def _expire(self) -> None:
        now = self._clock()
        for lease_id in [lease_id for lease_id, lease in self._leases.items() if lease.deadline <= now]:
            self._end_lease(lease_id)

    def _send(self, watch: _Watch) -> None:
        first = len(self._history)
        while first and self._history[first - 1][0] >= watch.unread:
            first -= 1
        for _, changes in self._history[first:]:
            watch.pending += [change for change in changes if change.key.startswith(watch.prefix)]
        watch.unread = max(watch.unread, self._revision + 1)

    def _compaction(self, revision: int) -> Compacted:
        return Compacted(f"history before revision {self._compacted + 1} is gone, {revision} was asked for")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
