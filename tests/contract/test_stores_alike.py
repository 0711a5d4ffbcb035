"""The same random operations on ``MemoryStore`` and on etcd end alike: answers, refusals, revisions and what a watch tells."""

from __future__ import annotations

import random
from contextlib import aclosing

import pytest

from lain_shared.errors import Conflict, Invalid, LeaseLost
from lain_shared.etcd import EtcdStore
from lain_shared.store import Change, CreateRevision, Delete, Exists, Expectation, ModRevision, Put, Store, Write
from lain_shared.testing import MemoryStore

KEYS = [f"/r/{name}" for name in ("a", "a/b", "a0", "b", "ü")]
STEPS = 300


class Run:
    """One store, driven by decisions that depend only on the random source and on what both stores must agree on.

    Revisions are told relative to the first, leases by the order in which they were granted.
    """

    def __init__(self, store: Store, seed: int, base: int) -> None:
        self.base = base
        self.leases: list[int] = []
        self.told: list[object] = []
        self._store = store
        self._random = random.Random(seed)  # noqa: S311
        self._known: list[int] = [0]

    async def step(self) -> None:
        choice = self._random.choice(
            ["put", "put", "put", "delete", "txn", "txn", "txn", "get", "list", "since", "grant", "revoke", "renew"]
        )
        try:
            answer: object = await getattr(self, f"_{choice}")()
        except (Conflict, Invalid, LeaseLost) as error:
            answer = (type(error).__name__, error.evidence)
        self.told.append((choice, answer))

    def _relative(self, revision: int) -> int:
        relative = revision - self.base if revision > self.base else 0
        if relative not in self._known:
            self._known.append(relative)
        return relative

    def _some_revision(self) -> int:
        known = self._random.choice(self._known[-8:])
        return known + self.base if known else 0

    def _lease(self) -> int:
        number = self._random.randrange(8)
        return self.leases[number] if number < len(self.leases) else 0

    def _expectation(self) -> Expectation:
        key = self._random.choice(KEYS)
        kind = self._random.randrange(3)
        if kind == 0:
            return Exists(key)
        return ModRevision(key, self._some_revision()) if kind == 1 else CreateRevision(key, self._some_revision())

    def _write(self) -> Write:
        key = self._random.choice(KEYS)
        if self._random.random() < 0.3:
            return Delete(key)
        return Put(key, b"%d" % self._random.randrange(100), self._lease())

    async def _put(self) -> object:
        expect = self._some_revision() if self._random.random() < 0.3 else None
        key, lease = self._random.choice(KEYS), self._lease()
        return self._relative(
            await self._store.put(key, b"%d" % self._random.randrange(100), expect=expect, lease=lease)
        )

    async def _delete(self) -> object:
        expect = self._some_revision() if self._random.random() < 0.3 else None
        return await self._store.delete(self._random.choice(KEYS), expect=expect)

    async def _txn(self) -> object:
        expect = [self._expectation() for _ in range(self._random.randrange(3))]
        writes = [self._write() for _ in range(self._random.randrange(4))]
        return self._relative(await self._store.txn(expect, writes))

    async def _get(self) -> object:
        entry = await self._store.get(self._random.choice(KEYS))
        return entry and (entry.value, self._relative(entry.create_revision), self._relative(entry.mod_revision))

    async def _list(self) -> object:
        listing = await self._store.list(self._random.choice(["/r/", "/r/a", "/r/a/", "/q"]))
        return self._relative(listing.revision), [(one.key, one.value, bool(one.lease)) for one in listing.entries]

    async def _since(self) -> object:
        listing, count = await self._store.list_since("/r/a", self._some_revision())
        return self._relative(listing.revision), count, [(one.key, one.value) for one in listing.entries]

    async def _grant(self) -> object:
        self.leases.append((await self._store.grant(600)).id)
        return len(self.leases)

    async def _revoke(self) -> object:
        if lease := self._lease():
            await self._store.revoke(lease)
        return self._relative((await self._store.list("/q")).revision)

    async def _renew(self) -> object:
        return round(await self._store.keep_alive(self._lease() or 1))

    async def history(self) -> list[object]:
        """What a watch from the first revision tells, up to the last."""
        await self._store.put("/r/end", b"")
        told: list[Change] = []
        async with aclosing(self._store.watch("/r/", start_revision=self.base + 1)) as batches:
            async for batch in batches:
                told += batch.items
                if told and told[-1].key == "/r/end":
                    break
        return [
            # within one revision etcd keeps no promise about the order of keys
            *sorted(
                (change.revision - self.base, change.key, change.value or b"-", change.create_revision > 0)
                for change in told
            )
        ]

    async def clean(self) -> None:
        for lease in self.leases:
            await self._store.revoke(lease)


@pytest.mark.parametrize("seed", range(6))
async def test_both_stores_tell_the_same(store: EtcdStore, seed: int) -> None:
    memory = MemoryStore()
    runs = [Run(one, seed, (await one.list("/none/")).revision) for one in (memory, store)]
    for number in range(STEPS):
        for run in runs:
            await run.step()
        assert runs[0].told[-1] == runs[1].told[-1], f"step {number}: memory, then etcd"
    assert await runs[0].history() == await runs[1].history()
    await runs[1].clean()
