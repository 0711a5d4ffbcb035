"""``Presence`` and ``Leadership``: believed no longer than the server does; nothing is written by one who was replaced."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from lain_shared import keys
from lain_shared.errors import Conflict, LeaseLost
from lain_shared.lease import HeldLease, Leadership, LeaseKeeper, NotLeader, Presence
from lain_shared.store import ABSENT, CreateRevision, Lease, Put
from lain_shared.testing import ManualClock, MemoryStore, eventually
from tests.fixtures.parts import running

KEY = keys.ALIVE.key("n1")
LEADER_KEY = keys.LEADER.key("deployd")


class Slow(MemoryStore):
    """A store on a clock of its own whose answers take a while."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.clock = clock
        self.takes_seconds = 0.0

    async def grant(self, ttl_seconds: int, *, lease_id: int = 0) -> Lease:
        granted = await super().grant(ttl_seconds, lease_id=lease_id)
        self.clock.advance(self.takes_seconds)
        return granted

    async def keep_alive(self, lease_id: int) -> float:
        remaining = await super().keep_alive(lease_id)
        self.clock.advance(self.takes_seconds)
        return remaining


# --- one lease --------------------------------------------------------------------------------------------------------


async def test_a_deadline_counts_from_the_moment_of_sending() -> None:
    clock = ManualClock()
    store = Slow(clock)
    lease = HeldLease(store, 10, clock=clock)
    store.takes_seconds = 3
    sent = clock()
    await lease.grant()
    assert lease.deadline == sent + 10
    assert lease.remaining_seconds == 7
    sent = clock()
    await lease.renew()
    assert lease.deadline == sent + 10
    clock.advance(6.9)
    assert lease.alive
    clock.advance(0.1)
    assert not lease.alive


async def test_a_lease_that_is_gone_is_held_no_more() -> None:
    clock = ManualClock()
    store = Slow(clock)
    lease = HeldLease(store, 10, clock=clock)
    await lease.grant()
    clock.advance(10)
    with pytest.raises(LeaseLost):
        await lease.renew()
    assert (lease.id, lease.alive, lease.remaining_seconds) == (0, False, 0.0)


async def test_revoking_never_fails_though_the_store_is_away() -> None:
    store = MemoryStore()
    lease = HeldLease(store, 10)
    await lease.revoke()
    await lease.grant()
    with store.outage():
        await lease.revoke()
    assert lease.id == 0


async def test_a_kept_lease_tells_its_loss_and_gets_another(tmp_path: Path) -> None:
    store, losses = MemoryStore(), []
    keeper = LeaseKeeper(store, 2, on_lost=lambda: losses.append(1), state_file=tmp_path / "deep" / "lease.json")
    with pytest.raises(LeaseLost):
        _ = keeper.lease_id
    async with running(keeper):
        await eventually(lambda: keeper.ready)
        first = keeper.lease_id
        await store.revoke(first)
        keeper.wake()
        await eventually(lambda: losses and keeper.ready)
        assert keeper.lease_id != first
        last = keeper.lease_id
    with pytest.raises(LeaseLost):
        await store.keep_alive(last)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"lease": 7}', '{"lease": "xyz"}', "{}"])
async def test_an_unreadable_lease_file_is_no_reason_to_stay_away(tmp_path: Path, text: str) -> None:
    file = tmp_path / "lease.json"
    file.write_text(text)
    keeper = LeaseKeeper(MemoryStore(), 2, state_file=file)
    async with running(keeper):
        await eventually(lambda: keeper.ready)


@pytest.mark.parametrize("how", ["no directory", "full"])
async def test_a_lease_that_cannot_be_written_down_is_held_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A full disk is no reason for a node to be taken for lost."""
    file = tmp_path / "x" / "lease.json"
    if how == "full":

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_text", full)
    else:
        (tmp_path / "x").write_text("a file, not a directory")
    keeper = LeaseKeeper(MemoryStore(), 2, state_file=file)
    async with running(keeper):
        await eventually(lambda: keeper.ready)


async def test_a_lease_adopted_in_two_tries_is_an_adopted_one(tmp_path: Path) -> None:
    """The store answered only the second time: the key still stands, and an upgrade stays invisible."""
    store, file = MemoryStore(), tmp_path / "lease.json"
    async with running(first := Presence(store, lambda: (KEY, b"one"), 60, file)):
        await eventually(lambda: first.ready)
    second = Presence(store, lambda: (KEY, b"two"), 60, file, may_begin=lambda: False)
    with store.outage():
        task = asyncio.create_task(second.run())
        await eventually(lambda: "away" in second.why_not_ready)
    await eventually(lambda: second.ready)
    second.stop()
    await task


# --- presence ---------------------------------------------------------------------------------------------------------


async def test_presence_outlives_its_process_and_is_adopted_by_the_next(tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "lease.json"
    first = Presence(store, lambda: (KEY, b"one"), 5, file)
    async with running(first):
        await eventually(lambda: first.ready)
        lease = first.lease_id
    entry = await store.get(KEY)
    assert entry is not None
    assert entry.lease == lease
    created = entry.create_revision
    second = Presence(store, lambda: (KEY, b"two"), 5, file)
    async with running(second):
        await eventually(lambda: second.ready)
        assert second.lease_id == lease
        entry = await store.get(KEY)
        assert entry is not None
        assert (entry.value, entry.create_revision) == (b"two", created), "an upgrade is invisible: the key never went"


async def test_on_a_new_lease_presence_begins_when_it_may_on_an_adopted_one_at_once(tmp_path: Path) -> None:
    store, file, may = MemoryStore(), tmp_path / "lease.json", [False]
    first = Presence(store, lambda: (KEY, b"one"), 5, file, may_begin=lambda: may[0])
    async with running(first):
        await eventually(lambda: first.lease_id)
        first.wake()
        await asyncio.sleep(0.05)
        assert await store.get(KEY) is None and not first.ready and "nothing to say" in first.why_not_ready
        may[0] = True
        first.wake()
        await eventually(lambda: first.ready)
    second = Presence(store, lambda: (KEY, b"two"), 5, file, may_begin=lambda: False)
    async with running(second):
        await eventually(lambda: second.ready, what="an upgrade stays invisible")


async def test_presence_is_given_up_on_stop_only_if_asked() -> None:
    store = MemoryStore()
    presence = Presence(store, lambda: (KEY, b"x"), 5, release=True)
    async with running(presence):
        await eventually(lambda: presence.ready)
    assert await store.get(KEY) is None


async def test_a_changed_record_is_published_when_woken() -> None:
    store, value = MemoryStore(), [b"one"]
    presence = Presence(store, lambda: (KEY, value[0]), 60, release=True)
    async with running(presence):
        await eventually(lambda: presence.ready)
        revision = store.revision
        presence.wake()
        await asyncio.sleep(0.05)
        assert store.revision == revision, "an unchanged record is not written again"
        value[0] = b"two"
        presence.wake()

        async def published() -> bool:
            entry = await store.get(KEY)
            return entry is not None and entry.value == b"two"

        await eventually(published)


async def test_presence_comes_back_after_an_outage_longer_than_its_lease() -> None:
    clock = ManualClock()
    store, losses = MemoryStore(clock=clock), []
    presence = Presence(store, lambda: (KEY, b"x"), 2, on_lost=lambda: losses.append(1), clock=clock, release=True)
    async with running(presence):
        await eventually(lambda: presence.ready)
        with store.outage():
            clock.advance(3)
            presence.wake()
            assert not presence.ready
            with pytest.raises(LeaseLost):
                _ = presence.lease_id
        presence.wake()
        await eventually(lambda: presence.ready, what="presence again")
        assert losses == [1]
        assert await store.get(KEY) is not None


async def test_a_presence_of_unknown_fate_is_written_again() -> None:
    store = MemoryStore()
    store.uncertain_next(applied=True)
    store.uncertain_next(applied=False)
    presence = Presence(store, lambda: (KEY, b"x"), 5, release=True)
    async with running(presence):
        await eventually(lambda: presence.ready)
        assert await store.get(KEY) is not None


async def test_a_presence_somebody_deleted_is_put_back() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    presence = Presence(store, lambda: (KEY, b"x"), 60, clock=clock, release=True)
    async with running(presence):
        await eventually(lambda: presence.ready)
        await store.delete(KEY)
        clock.advance(11)
        presence.wake()
        await eventually(lambda: store.get(KEY))


# --- leadership -------------------------------------------------------------------------------------------------------


class Replica(Leadership):
    """A leadership that notes what it was told."""

    def __init__(self, store: MemoryStore, id: str, ttl_seconds: int = 2, **options: ManualClock) -> None:
        self.told: list[str] = []
        super().__init__(
            store,
            "deployd",
            id,
            ttl_seconds,
            on_gained=lambda: self.told.append("gained"),
            on_lost=lambda: self.told.append("lost"),
            **options,
        )


async def test_one_leads_and_the_others_know_who() -> None:
    store = MemoryStore()
    one, two = Replica(store, "one"), Replica(store, "two")
    async with running(one):
        await eventually(lambda: one.is_leader)
        async with running(two):
            await eventually(lambda: two.ready)
            assert (two.is_leader, two.leader, one.leader) == (False, "one", "one")
            with pytest.raises(NotLeader) as error:
                two.fence()
            assert error.value.evidence == {"leader": "one"}
            assert error.value.retry_seconds
            one.stop()
            await eventually(lambda: two.is_leader, 1.0, "the next one leads at once: the lease was given up")
            assert one.told == ["gained", "lost"]
    assert two.told == ["gained", "lost"]
    assert await store.get(LEADER_KEY) is None


async def test_a_write_of_one_who_was_replaced_fails() -> None:
    store = MemoryStore()
    one, two = Replica(store, "one"), Replica(store, "two")
    async with running(one):
        await eventually(lambda: one.is_leader)
        fence = one.fence()
        assert isinstance(fence, CreateRevision)
        await store.txn([fence], [Put("/x", b"1")])
    async with running(two):
        await eventually(lambda: two.is_leader)
        with pytest.raises(Conflict):
            await store.txn([fence], [Put("/x", b"2")])
        await store.txn([two.fence()], [Put("/x", b"3")])


async def test_a_leader_stops_believing_by_the_clock_alone() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    leader = Replica(store, "one", clock=clock)
    async with running(leader):
        await eventually(lambda: leader.is_leader)
        clock.advance(2)  # as if this process had been frozen: nothing else ran
        assert not leader.is_leader
        with pytest.raises(NotLeader):
            leader.fence()


async def test_a_leader_without_a_store_gives_up_and_leads_again_afterwards() -> None:
    store = MemoryStore()
    leader = Replica(store, "one", ttl_seconds=1)
    async with running(leader):
        await eventually(lambda: leader.is_leader)
        with store.outage():
            await eventually(lambda: leader.told == ["gained", "lost"], 3)
        await eventually(lambda: leader.is_leader, 3)
        assert leader.told == ["gained", "lost", "gained"]


async def test_a_lease_that_outlived_the_outage_is_led_on_with_the_same_fence() -> None:
    clock = ManualClock()
    store = MemoryStore()
    leader = Replica(store, "one", ttl_seconds=3, clock=clock)
    async with running(leader):
        await eventually(lambda: leader.is_leader)
        fence = leader.fence()
        clock.advance(3)  # only this process lost time: the server still has the lease
        assert not leader.is_leader
        await eventually(lambda: leader.is_leader, 5)
        assert leader.told == ["gained", "lost", "gained"]
        assert leader.fence() == fence


async def test_a_candidacy_of_unknown_fate_is_looked_up() -> None:
    for applied in (True, False):
        store = MemoryStore()
        store.uncertain_next(applied=applied)
        leader = Replica(store, "one")
        async with running(leader):
            await eventually(lambda: leader.is_leader)  # noqa: B023
            entry = await store.get(LEADER_KEY)
            assert entry is not None
            assert leader.fence() == CreateRevision(LEADER_KEY, entry.create_revision)


async def test_deleting_the_key_makes_the_leader_step_down() -> None:
    store = MemoryStore()
    leader = Replica(store, "one")
    async with running(leader):
        await eventually(lambda: leader.is_leader)
        await store.delete(LEADER_KEY)
        await store.put(LEADER_KEY, b'{"v":1,"id":"usurper","since":0}', expect=ABSENT)
        await eventually(lambda: not leader.is_leader and leader.leader == "usurper", 3)
        await store.delete(LEADER_KEY)
        await eventually(lambda: leader.is_leader, 3)


async def test_an_unreadable_leader_still_leads() -> None:
    store = MemoryStore()
    await store.put(LEADER_KEY, b"?")
    follower = Replica(store, "one")
    async with running(follower):
        await eventually(lambda: follower.ready)
        assert not follower.is_leader
        assert follower.leader is None


async def test_a_follower_is_not_ready_before_it_heard_who_leads() -> None:
    store = MemoryStore()
    follower = Replica(store, "one")
    with store.outage():
        async with running(follower):
            await eventually(lambda: "away" in follower.why_not_ready)
            assert not follower.ready


async def test_of_many_only_one_leads_at_any_time() -> None:
    store = MemoryStore()
    replicas = [Replica(store, f"r{number}") for number in range(6)]
    most = 0
    async with running(*replicas):
        for _ in range(len(replicas)):
            leader = await eventually(lambda: next((one for one in replicas if one.is_leader), None))
            most = max(most, sum(one.is_leader for one in replicas))
            leader.stop()
            await eventually(lambda: not leader.is_leader)  # noqa: B023
    assert most == 1
