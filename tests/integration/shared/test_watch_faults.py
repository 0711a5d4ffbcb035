"""The watch contract on real etcd that is killed, frozen, cut off and compacted: at the ``Mirror`` nothing is lost and nothing comes twice.

Mirrors here never resync by the clock, so only the watch and its own rules can bring what is asserted.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import pytest

from lain_shared import etcd_channel, keys
from lain_shared.errors import Invalid, LainError, Unavailable, Uncertain
from lain_shared.etcd import EtcdStore
from lain_shared.etcd_channel import SILENCE_SECONDS, Lost
from lain_shared.lease import Leadership, Presence
from lain_shared.mirror import Mirror
from lain_shared.model.node import Node
from lain_shared.records import Records
from lain_shared.store import Change, Store
from lain_shared.testing import eventually
from tests.fixtures.cable import cable_to
from tests.fixtures.etcd import Cluster
from tests.fixtures.parts import running

NEVER = 3_600.0
FREEZE_SECONDS = 10.0


class Witness:
    """A mirror, and every record version that ever appeared in it."""

    def __init__(self, store: Store, *, silence_seconds: float = 30.0) -> None:
        records = Records(store, keys.NODES, Node)
        self.seen: list[tuple[str, int]] = []
        self.calls = 0
        self._last: dict[str, int] = {}
        self.mirror = Mirror(records, on_change=self._look, resync_seconds=NEVER, silence_seconds=silence_seconds)

    def _look(self) -> None:
        self.calls += 1
        now = {key: stored.entry.mod_revision for key, stored in self.mirror.snapshot().items()}
        self.seen += [(key, revision) for key, revision in now.items() if self._last.get(key) != revision]
        assert now != self._last or self.calls == 1, "on_change was called though nothing changed"
        self._last = now

    def assert_nothing_twice(self) -> None:
        assert len(self.seen) == len(set(self.seen))
        for key, group in itertools.groupby(sorted(self.seen, key=lambda item: item[0]), key=lambda item: item[0]):
            revisions = [revision for _, revision in group]
            assert revisions == sorted(revisions), f"{key} went back in time: {revisions}"


class Events:
    """Everything a bare watch from revision 1 delivered."""

    def __init__(self, store: Store) -> None:
        self.changes: list[Change] = []
        self._store = store

    async def run(self) -> None:
        async with aclosing(self._store.watch(keys.NODES.prefix, start_revision=1)) as batches:
            async for batch in batches:
                self.changes += batch.items

    def assert_equal(self, truth: Sequence[Change]) -> None:
        revisions = [change.revision for change in self.changes]
        assert revisions == sorted(revisions)
        assert len(self.changes) == len(set(self.changes)), "delivered twice"
        assert self.changes == list(truth)


class Writer:
    """Writes new keys, changes old ones and deletes some, one after the other, and keeps what etcd acknowledged."""

    def __init__(self, store: Store) -> None:
        self._records = Records(store, keys.NODES, Node)
        self._stopped = False
        self._next = 0
        self.acknowledged: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.uncertain = 0

    async def write(self, count: int = 0) -> None:
        """``count`` rounds, or until ``stop``."""
        for number in itertools.count():
            if self._stopped or (count and number >= count):
                return
            await self._put(f"n{self._next}", number)
            self._next += 1
            if number % 3 == 0:
                await self._put("again", number)
            if number % 10 == 9:
                await self._delete(next(name for name in self.acknowledged if name != "again"))
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._stopped = True

    async def _put(self, name: str, number: int) -> None:
        while True:
            try:
                revision = await self._records.put(Node(name, f"10.0.0.{number % 256}"), name)
            except Uncertain:
                self.uncertain += 1
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                self.acknowledged[name] = revision
                return

    async def _delete(self, name: str) -> None:
        while True:
            try:
                await self._records.delete(name)
            except Unavailable:  # Uncertain too: deleting again is the same
                await asyncio.sleep(0.05)
            else:
                self.acknowledged.pop(name, None)
                self.deleted.add(name)
                return


@asynccontextmanager
async def observed(endpoints: Sequence[str]) -> AsyncIterator[tuple[Witness, Events, Writer]]:
    """A mirror and a bare watch that follow, each on a store of its own, what a writer writes."""
    async with (
        EtcdStore.connect(endpoints) as mirrored,
        EtcdStore.connect(endpoints) as watched,
        EtcdStore.connect(endpoints) as written,
    ):
        witness, events, writer = Witness(mirrored), Events(watched), Writer(written)
        following = asyncio.create_task(events.run())
        try:
            async with running(witness.mirror):
                await witness.mirror.wait_whole()
                yield witness, events, writer
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def writing(writer: Writer) -> AsyncIterator[None]:
    """The writer writes all the while."""
    task = asyncio.create_task(writer.write())
    try:
        yield
    finally:
        writer.stop()
        await task


async def history(endpoints: Sequence[str], revision: int) -> list[Change]:
    """What etcd itself tells afterwards, undisturbed: every change up to ``revision``."""
    told: list[Change] = []
    async with (
        EtcdStore.connect(endpoints) as store,
        aclosing(store.watch(keys.NODES.prefix, start_revision=1)) as batches,
    ):
        async for batch in batches:
            told += batch.items
            if batch.revision >= revision:
                break
    return told


async def assert_mirror_is_true(witness: Witness, writer: Writer, endpoints: Sequence[str]) -> int:
    """The mirror equals etcd, holds every acknowledged write, and had nothing twice. Returns the revision compared."""
    async with EtcdStore.connect(endpoints) as store:
        listing = await store.list(keys.NODES.prefix)
    truth = {entry.key: entry.mod_revision for entry in listing.entries}
    await eventually(
        lambda: {key: one.entry.mod_revision for key, one in witness.mirror.snapshot().items()} == truth,
        what="the mirror equals etcd",
        timeout_seconds=20,
    )
    for name, revision in writer.acknowledged.items():
        assert truth[keys.NODES.key(name)] >= revision, f"{name} was acknowledged and is lost"
    for name in writer.deleted:
        assert keys.NODES.key(name) not in truth
    witness.assert_nothing_twice()
    return max(truth.values())


async def assert_nothing_lost(witness: Witness, events: Events, writer: Writer, endpoints: Sequence[str]) -> None:
    """As above; and the bare watch delivered exactly etcd's history, each acknowledged write in it once."""
    last = await assert_mirror_is_true(witness, writer, endpoints)
    await eventually(lambda: events.changes and events.changes[-1].revision >= last, what="the watch has caught up")
    events.assert_equal(await history(endpoints, last))
    told = {(change.key, change.revision) for change in events.changes}
    assert {(keys.NODES.key(name), revision) for name, revision in writer.acknowledged.items()} <= told
    assert set(witness.seen) <= told


async def progress(writer: Writer, rounds: int = 30) -> None:
    """Wait until the writer got some more acknowledged."""
    before = len(writer.acknowledged) + len(writer.deleted)
    await eventually(
        lambda: len(writer.acknowledged) + len(writer.deleted) >= before + rounds, 30, f"{rounds} more writes"
    )


async def test_a_single_etcd_is_killed_and_restarted_with_its_data(etcd_single: Cluster) -> None:
    (member,) = etcd_single.members
    async with observed(etcd_single.endpoints) as (witness, events, writer):
        async with writing(writer):
            for _ in range(3):
                await progress(writer)
                member.kill()
                await asyncio.to_thread(member.start)
                await asyncio.to_thread(member.wait_healthy)
            await progress(writer)
        await assert_nothing_lost(witness, events, writer, etcd_single.endpoints)


async def test_each_of_three_is_killed_in_turn(etcd_cluster: Cluster) -> None:
    async with observed(etcd_cluster.endpoints) as (witness, events, writer):
        async with writing(writer):
            for member in etcd_cluster.members:
                await progress(writer)
                member.kill()
                await progress(writer)  # two of three go on
                await asyncio.to_thread(member.start)
                await asyncio.to_thread(member.wait_healthy)
            await progress(writer)
        await assert_nothing_lost(witness, events, writer, etcd_cluster.endpoints)


async def test_a_single_etcd_is_frozen_for_ten_seconds(etcd_single: Cluster) -> None:
    (member,) = etcd_single.members
    async with observed(etcd_single.endpoints) as (witness, events, writer):
        async with writing(writer):
            await progress(writer)
            member.freeze()
            await asyncio.sleep(FREEZE_SECONDS)
            member.thaw()
            await progress(writer)
        await assert_nothing_lost(witness, events, writer, etcd_single.endpoints)


async def test_each_of_three_is_frozen_for_ten_seconds(etcd_cluster: Cluster) -> None:
    async with observed(etcd_cluster.endpoints) as (witness, events, writer):
        async with writing(writer):
            for member in etcd_cluster.members:
                await progress(writer)
                member.freeze()
                thaw_at = asyncio.get_running_loop().time() + FREEZE_SECONDS
                await progress(writer, 5)  # two of three go on
                await asyncio.sleep(thaw_at - asyncio.get_running_loop().time())
                member.thaw()
                await asyncio.to_thread(member.wait_healthy)
            await progress(writer)
        await assert_nothing_lost(witness, events, writer, etcd_cluster.endpoints)


async def test_history_is_compacted_under_a_watch_that_stands(etcd_single: Cluster) -> None:
    async with observed(etcd_single.endpoints) as (witness, _, writer):
        async with EtcdStore.connect(etcd_single.endpoints) as store, writing(writer):
            for _ in range(20):
                await progress(writer, 5)
                await store.compact((await store.list(keys.NODES.prefix)).revision)
        await assert_mirror_is_true(witness, writer, etcd_single.endpoints)


@pytest.mark.parametrize("last", ["put", "delete"])
async def test_history_is_compacted_while_the_watch_is_cut_off(etcd_single: Cluster, last: str) -> None:
    async with (
        cable_to(etcd_single.endpoint) as cable,
        EtcdStore.connect([cable.endpoint]) as mirrored,
        EtcdStore.connect(etcd_single.endpoints) as direct,
    ):
        witness, writer = Witness(mirrored), Writer(direct)
        async with running(witness.mirror):
            await witness.mirror.wait_whole()
            await writer.write(10)
            await eventually(
                lambda: len(witness.mirror.snapshot()) == len(writer.acknowledged), what="the first writes"
            )
            cable.cut()
            await writer.write(19 if last == "put" else 20)
            await direct.compact((await direct.list(keys.NODES.prefix)).revision)
            cable.heal()
            await assert_mirror_is_true(witness, writer, etcd_single.endpoints)


async def test_a_deletion_that_is_the_compacted_revision_is_not_missed(etcd_single: Cluster) -> None:
    """etcd 3.4.23 drops it silently when the watch resumes at exactly that revision."""
    async with (
        cable_to(etcd_single.endpoint) as cable,
        EtcdStore.connect([cable.endpoint]) as mirrored,
        EtcdStore.connect(etcd_single.endpoints) as direct,
    ):
        witness, records = Witness(mirrored), Records(direct, keys.NODES, Node)
        revision = await records.put(Node("gone", "10.0.0.1"), "gone")
        async with running(witness.mirror):
            await witness.mirror.wait_until(revision)
            cable.cut()
            await records.delete("gone")
            await direct.compact(revision + 1)
            cable.heal()
            await eventually(lambda: not witness.mirror.snapshot(), what="the deletion is seen")


async def test_a_connection_that_hangs_is_given_up(etcd_single: Cluster) -> None:
    """No byte comes and nothing is refused, as when a router on the way forgot the connection."""
    async with (
        cable_to(etcd_single.endpoint) as cable,
        EtcdStore.connect([cable.endpoint]) as mirrored,
        EtcdStore.connect(etcd_single.endpoints) as written,
    ):
        witness, writer = Witness(mirrored, silence_seconds=NEVER), Writer(written)
        async with running(witness.mirror):
            await witness.mirror.wait_whole()
            cable.hang()
            await writer.write(20)
            await assert_mirror_is_true(witness, writer, etcd_single.endpoints)


async def test_a_store_that_went_back_in_time_is_believed(etcd_single: Cluster) -> None:
    """A member restored from an older backup: a watch would wait for revisions that are far away."""
    (member,) = etcd_single.members
    async with observed(etcd_single.endpoints) as (witness, _, writer):
        await writer.write(50)
        member.kill()
        data = member.argv.index("--data-dir") + 1
        member.argv[data] += "-restored"
        member.start()
        await asyncio.to_thread(member.wait_healthy)
        async with EtcdStore.connect(etcd_single.endpoints) as store:
            await Records(store, keys.NODES, Node).put(Node("only", "10.0.0.1"), "only")
        await eventually(
            lambda: list(witness.mirror.snapshot()) == [keys.NODES.key("only")],
            what="the restored store",
            timeout_seconds=20,
        )


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_a_presence_outlives_the_death_of_each_member(etcd_cluster: Cluster) -> None:
    async with EtcdStore.connect(etcd_cluster.endpoints) as store:
        presence = Presence(store, lambda: (keys.ALIVE.key("n1"), b"{}"), 5, release=True)
        async with running(presence):
            await eventually(lambda: presence.ready, what="presence")
            lease = presence.lease_id
            for member in etcd_cluster.members:
                member.kill()
                await asyncio.sleep(1)  # longer than an election; the TTL must bridge it
                await asyncio.to_thread(member.start)
                await asyncio.to_thread(member.wait_healthy)
            assert presence.lease_id == lease
            entry = await store.get(keys.ALIVE.key("n1"))
            assert entry is not None
            assert entry.lease == lease
        assert await store.get(keys.ALIVE.key("n1")) is None


async def test_never_two_lead_whatever_happens_to_etcd(etcd_cluster: Cluster) -> None:
    leaders: list[tuple[str, ...]] = []
    async with (
        EtcdStore.connect(etcd_cluster.endpoints) as one,
        EtcdStore.connect(etcd_cluster.endpoints) as two,
    ):
        replicas = [Leadership(one, "deployd", "one"), Leadership(two, "deployd", "two")]

        async def look() -> None:
            while True:
                leaders.append(tuple(replica.id for replica in replicas if replica.is_leader))
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(look())
        try:
            async with running(*replicas):
                await eventually(lambda: any(replica.is_leader for replica in replicas), what="a leader")
                for member in etcd_cluster.members:
                    member.kill()
                    await asyncio.sleep(1)
                    await asyncio.to_thread(member.start)
                    await asyncio.to_thread(member.wait_healthy)
                for member in etcd_cluster.members[:2]:  # no quorum: nobody may believe to lead for longer than a TTL
                    member.freeze()
                await eventually(lambda: not any(replica.is_leader for replica in replicas), 4, "nobody leads")
                for member in etcd_cluster.members[:2]:
                    member.thaw()
                await eventually(lambda: any(replica.is_leader for replica in replicas), 20, "a leader again")
                leader = next(replica for replica in replicas if replica.is_leader)
                leader.stop()
                other = next(replica for replica in replicas if replica is not leader)
                await eventually(lambda: other.is_leader, 5, "the other one leads")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    assert max(len(at_once) for at_once in leaders) == 1


@pytest.mark.parametrize("size", [1_600_000, 3_000_000])
async def test_what_is_too_big_is_refused_for_good(store: EtcdStore, size: int) -> None:
    """Of unknown fate it would be tried for ever, and taken for an etcd that is away."""
    with pytest.raises(Invalid):
        await store.put("/big", b"x" * size)
    assert await store.get("/big") is None


async def test_a_call_to_an_etcd_that_is_away_ends_within_its_deadline(etcd_single: Cluster) -> None:
    loop = asyncio.get_running_loop()
    async with EtcdStore.connect(etcd_single.endpoints, timeout_seconds=1.5) as store:
        await store.put("/a", b"1")
        etcd_single.members[0].freeze()
        for attempt, kind in ((store.get("/a"), Unavailable), (store.put("/a", b"2"), Uncertain)):
            began = loop.time()
            with pytest.raises(kind):
                await attempt
            assert loop.time() - began < 2.5
        etcd_single.members[0].thaw()
        await eventually(lambda: store.get("/a"), what="etcd answers again")
        etcd_single.members[0].kill()
        for attempt in (store.get("/a"), store.put("/a", b"2")):
            began = loop.time()
            with pytest.raises(LainError) as error:
                await attempt
            assert type(error.value) in (Unavailable, Uncertain)
            assert loop.time() - began < 2.5
        with pytest.raises(Unavailable) as refused:  # refused before it was accepted: certain
            await store.put("/a", b"3")
        assert not isinstance(refused.value, Uncertain)
        assert "does not answer" in refused.value.message


async def test_an_etcd_known_to_be_away_keeps_nobody_waiting(etcd_single: Cluster) -> None:
    """The first call waits for a restart or a new leader, later ones would wait for nothing. Once it was back, it is waited for again."""
    loop = asyncio.get_running_loop()

    async def waited(store: EtcdStore) -> float:
        began = loop.time()
        with pytest.raises(Unavailable):
            await store.get("/a")
        return loop.time() - began

    async with EtcdStore.connect(etcd_single.endpoints, timeout_seconds=5.0) as store:
        await store.put("/a", b"1")
        etcd_single.members[0].kill()
        assert await waited(store) > 3.5
        await waited(store)
        assert await waited(store) < 3
        etcd_single.members[0].start()
        await eventually(lambda: store.get("/a"), what="etcd answers again")
        etcd_single.members[0].kill()
        assert await waited(store) > 3.5


async def test_a_watch_on_a_replaced_connection_goes_on_over_the_new_one(
    etcd_single: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member frozen just long enough for its connection to be replaced, not for the watch to be given up: the watch lives on, on a
    connection that is closed a minute later. gRPC then calls it cancelled, as if whoever reads it had been."""
    async with EtcdStore.connect(etcd_single.endpoints) as store:
        witness, writer = Witness(store, silence_seconds=NEVER), Writer(store)
        (member,) = store.members.each()
        async with running(witness.mirror):
            await writer.write(1)
            await assert_mirror_is_true(witness, writer, etcd_single.endpoints)
            member._heard_at -= SILENCE_SECONDS
            member.avoid(Lost("the member did not answer"))
            monkeypatch.setattr(etcd_channel, "RETIRED_SECONDS", 0.0)
            await writer.write(10)
            assert not member._retired
            await assert_mirror_is_true(witness, writer, etcd_single.endpoints)
