"""``Store``: all that LAIN asks of etcd, as a protocol.

Two implementations pass the same contract suite (``tests/contract/test_store.py``): ``etcd.EtcdStore`` and
``testing.MemoryStore``. Keys are text, values are bytes. Revisions are etcd's: one counter for the whole store, incremented by every
transaction that changes something.

Failures: ``Unavailable`` (safe to repeat), ``Uncertain`` (a write whose fate is unknown), ``Conflict`` (an expectation did not
hold), ``Compacted`` (history is gone, list again), ``LeaseLost``, ``Denied`` (this user may not touch that key).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

ABSENT = 0
"""The expectation "this key does not exist", for ``put(expect=)`` and ``ModRevision``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as it stood: its value and the revisions at which it was created and last changed."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Every key under a prefix at one revision, sorted by key."""

    revision: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch. A deletion has ``value is None``; ``revision`` is the store revision that made the change."""

    key: str
    value: bytes | None
    revision: int
    create_revision: int = 0
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes of one or more whole revisions, in order. ``revision`` is the last one: resume from ``revision + 1``.

    ``items`` may be empty: the server is alive and has nothing newer to say. An empty batch never moves the resume point.
    """

    revision: int
    items: tuple[Change, ...]


# --- what a transaction expects, and what it does ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModRevision:
    """Expect ``key`` unchanged since ``revision`` (``ABSENT``: expect that it does not exist)."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Expect ``key`` to be the very key that was created at ``revision``: the fence of leadership and of operation holders."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Exists:
    """Expect ``key`` to exist, whatever its value."""

    key: str


Expectation = ModRevision | CreateRevision | Exists


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted lease. ``expires_in`` counts from the moment the request was *sent*, so it never says longer than the server."""

    id: int
    ttl_seconds: float


class Store(Protocol):
    """What LAIN asks of etcd."""

    @property
    def where(self) -> str:
        """What it is and where it is, for people: ``etcd at 10.0.0.1:2379``. Never a secret."""

    async def get(self, key: str) -> Entry | None:
        """The key now (a linearizable read), or None."""

    async def list(self, prefix: str) -> Listing:
        """Every key that starts with ``prefix``, all at one revision however many pages it takes."""

    async def list_since(self, prefix: str, revision: int) -> tuple[Listing, int]:
        """Only the keys changed after ``revision``, and how many keys the prefix holds in all (a differing count means deletions)."""

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        """Write ``key``; with ``expect``, only if its mod revision is that one (``ABSENT``: only if it does not exist).

        Returns the revision of the write. Raises ``Conflict`` when the expectation does not hold.
        """

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        """Delete ``key``; True if there was one. With ``expect``, raises ``Conflict`` when its mod revision is another."""

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        """All ``writes``, if every expectation holds; returns the revision. Else ``Conflict`` and nothing is written."""

    def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[Changes, None]:
        """Every change under ``prefix`` from ``start_revision`` on: none lost, none twice, in order, across reconnects.

        Yields an empty ``Changes`` when the server proved alive. Raises ``Compacted`` when history is gone. Close the iterator
        (``aclose``) to end the watch.
        """

    async def grant(self, ttl_seconds: int, *, lease_id: int = 0) -> Lease:
        """A new lease (``lease_id`` 0: the store chooses the id)."""

    async def keep_alive(self, lease_id: int) -> float:
        """Renew once; returns the new remaining seconds. Raises ``LeaseLost`` when the lease is gone."""

    async def revoke(self, lease_id: int) -> None:
        """End a lease and delete its keys. Already gone is success."""


class ClosingStore(Store, AbstractAsyncContextManager["ClosingStore"], Protocol):
    """A store that owns connections: leave its context to close them."""
