"""``Mirror``: whole or not yet, lists decide, unknown is not empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lain_shared import keys
from lain_shared.errors import Compacted, Denied, Unavailable
from lain_shared.mirror import Mirror, NotYetWhole
from lain_shared.model.node import Node
from lain_shared.records import Records, Stored
from lain_shared.store import Changes, Delete, Listing, Put
from lain_shared.testing import MemoryStore, eventually
from tests.fixtures.parts import running


def nodes(store: MemoryStore) -> Records[Node]:
    return Records(store, keys.NODES, Node)


def names(mirror: Mirror[Node]) -> set[str]:
    return {stored.value.name for stored in mirror.snapshot().values()}


class Forgetful(MemoryStore):
    """A store whose watches may lose events, as etcd 3.4.23's can, or fall silent, or be denied."""

    losing = False
    silent = False
    denied = False
    compacted = False
    lists = 0
    watches = 0
    lost = 0

    async def list(self, prefix: str) -> Listing:
        if self.denied:
            raise Denied("etcd does not let this user touch that key")
        self.lists += 1
        return await super().list(prefix)

    async def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[Changes, None]:
        self.watches += 1
        async with aclosing(super().watch(prefix, start_revision=start_revision)) as batches:
            async for batch in batches:
                if self.silent:
                    await asyncio.Event().wait()
                if self.compacted and batch.items:
                    self.compacted = False
                    raise Compacted("history is gone")
                if self.losing and batch.items:
                    self.lost += len(batch.items)
                else:
                    yield batch


async def test_unknown_is_not_empty() -> None:
    store = MemoryStore()
    mirror = Mirror(nodes(store))
    with store.outage():
        async with running(mirror):
            await eventually(lambda: mirror.trouble, what="it has tried")
            assert not mirror.ready
            assert mirror.why_not_ready == "the store is away"
            with pytest.raises(NotYetWhole) as error:
                mirror.snapshot()
            assert "away" in error.value.why and error.value.next == "lainctl doctor"
            assert error.value.message == "/lain/nodes/ has not been read from a store in memory yet"
            with pytest.raises(NotYetWhole):
                mirror.get("n1")


async def test_an_empty_family_is_whole_and_says_so_once() -> None:
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    mirror = Mirror(nodes(MemoryStore()), on_change=count, resync_seconds=0.02)
    async with running(mirror):
        await mirror.wait_whole()
        heard = mirror.last_heard
        await eventually(lambda: mirror.last_heard > heard, what="a resync")
        assert (mirror.ready, mirror.why_not_ready, dict(mirror.snapshot()), calls) == (True, "", {}, 1)


async def test_it_follows_what_is_written_and_deleted() -> None:
    store = MemoryStore()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    mirror = Mirror(records)
    async with running(mirror):
        await mirror.wait_whole()
        revision = await records.put(Node("b", "2"), "b")
        await mirror.wait_until(revision)
        assert names(mirror) == {"a", "b"}
        stored = mirror.get("b")
        assert stored is not None
        assert stored.entry.mod_revision == revision == mirror.revision
        await records.delete("a")
        await eventually(lambda: names(mirror) == {"b"})
        assert mirror.get("a") is None


async def test_a_snapshot_is_its_holders_to_keep() -> None:
    store = MemoryStore()
    records = nodes(store)
    mirror = Mirror(records)
    async with running(mirror):
        await mirror.wait_whole()
        before = mirror.snapshot()
        await mirror.wait_until(await records.put(Node("a", "1"), "a"))
        assert dict(before) == {}


async def test_it_may_be_narrowed_to_first_parts() -> None:
    store = MemoryStore()
    mirror = Mirror(Records(store, keys.OBSERVED, dict[str, int]), under=("n1",))
    await store.put(keys.OBSERVED.key("n1", "a"), b'{"v":1}')
    await store.put(keys.OBSERVED.key("n10", "b"), b'{"v":1}')
    async with running(mirror):
        await mirror.wait_whole()
        await mirror.wait_until(await store.put(keys.OBSERVED.key("n1", "c"), b'{"v":1}'))
        assert set(mirror.snapshot()) == {keys.OBSERVED.key("n1", "a"), keys.OBSERVED.key("n1", "c")}


async def test_what_is_known_is_kept_while_the_store_is_away() -> None:
    store = MemoryStore()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    mirror = Mirror(records, resync_seconds=0.05)
    async with running(mirror):
        await mirror.wait_whole()
        with store.outage():
            await eventually(lambda: mirror.trouble, what="the outage is noticed")
            assert names(mirror) == {"a"}
            assert mirror.ready
        await eventually(lambda: not mirror.trouble, what="it follows again")


async def test_a_denied_family_is_told_and_never_whole() -> None:
    store = Forgetful()
    store.denied = True
    mirror = Mirror(nodes(store))
    async with running(mirror):
        await eventually(lambda: "does not let" in mirror.why_not_ready)
        store.denied = False
        await mirror.wait_whole()


async def test_compacted_history_is_listed_anew() -> None:
    store = Forgetful()
    records = nodes(store)
    mirror = Mirror(records, resync_seconds=3_600)
    async with running(mirror):
        await mirror.wait_whole()
        store.compacted = True
        await mirror.wait_until(await records.put(Node("a", "1"), "a"))
        assert (names(mirror), store.lists) == ({"a"}, 2)
        await mirror.wait_until(await records.put(Node("b", "1"), "b"))
        assert store.lists == 2


async def test_events_the_watch_lost_are_found_by_the_resync() -> None:
    store = Forgetful()
    records = nodes(store)
    await records.put(Node("gone", "1"), "gone")
    mirror = Mirror(records, resync_seconds=0.1)
    async with running(mirror):
        await mirror.wait_whole()
        store.losing = True
        await records.put(Node("a", "1"), "a")
        await records.delete("gone")
        await eventually(lambda: names(mirror) == {"a"}, what="the resync repairs it")


async def test_a_family_at_rest_is_not_listed_again_and_its_watch_stands() -> None:
    store = Forgetful()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    mirror = Mirror(records, resync_seconds=0.01)
    async with running(mirror):
        await mirror.wait_whole()
        for elsewhere in range(3):
            revision = await store.put("/lain/elsewhere/x", b"%d" % elsewhere)
            await mirror.wait_until(revision)  # resyncs alone can bring this
        assert (store.lists, store.watches) == (1, 1)
        await eventually(lambda: store.lists > 1, what="now and then it is")
        await mirror.wait_until(await records.put(Node("b", "1"), "b"))
        assert names(mirror) == {"a", "b"}


@pytest.mark.parametrize("later", ["put", "delete", "catch_up", "nothing"])
async def test_what_a_watch_lost_is_found_though_more_was_told_since(later: str) -> None:
    store = Forgetful()
    records = nodes(store)
    for name in ("gone", "changed", "other"):
        await records.put(Node(name, "1"), name)
    mirror = Mirror(records, resync_seconds=0.2)
    async with running(mirror):
        await mirror.wait_whole()
        store.losing = True
        await records.delete("gone")
        await records.put(Node("changed", "2"), "changed")
        await eventually(lambda: store.lost == 2, what="the watch loses both")
        store.losing = False
        match later:
            case "put":
                await records.put(Node("more", "1"), "more")
            case "delete":
                await records.delete("other")
            case "catch_up":
                await mirror.catch_up()
            case _:
                pass

        def found() -> bool:
            changed = mirror.get("changed")
            return "gone" not in names(mirror) and changed is not None and changed.value.address == "2"

        await eventually(found, what="the resync repairs it")


async def test_silence_is_listed_anew() -> None:
    store = Forgetful()
    records = nodes(store)
    mirror = Mirror(records, silence_seconds=0.1, resync_seconds=3_600)
    async with running(mirror):
        await mirror.wait_whole()
        store.silent = True
        await records.put(Node("a", "1"), "a")
        await eventually(lambda: names(mirror) == {"a"}, what="silence makes it list")


async def test_a_bad_record_is_reported_and_the_others_are_served() -> None:
    store = MemoryStore()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    await store.put(keys.NODES.key("b"), b'{"v":1,"name":7}')
    await store.put(keys.NODES.prefix + "too/many/parts", b'{"v":1,"name":"c","address":"1"}')
    mirror = Mirror(records)
    async with running(mirror):
        await mirror.wait_whole()
        assert names(mirror) == {"a"}
        assert "name" in mirror.bad[keys.NODES.key("b")]
        assert len(mirror.bad) == 2
        await records.delete("b")
        await eventually(lambda: len(mirror.bad) == 1, what="a deleted record is bad no more")


@pytest.mark.parametrize("keep", [True, False])
async def test_a_record_that_turns_bad_keeps_its_last_good_value_if_asked(keep: bool) -> None:
    store = MemoryStore()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    mirror = Mirror(records, keep_last_good=keep)
    async with running(mirror):
        await mirror.wait_whole()
        await store.put(keys.NODES.key("a"), b"broken")
        await eventually(lambda: mirror.bad)
        assert names(mirror) == ({"a"} if keep else set())


async def test_a_new_leader_catches_up_without_waiting_for_the_watch() -> None:
    store = Forgetful()
    records = nodes(store)
    for name in ("a", "b", "c"):
        await records.put(Node(name, "1"), name)
    mirror = Mirror(records, resync_seconds=3_600)
    async with running(mirror):
        await mirror.wait_whole()
        store.losing = True
        await records.put(Node("d", "1"), "d")
        elsewhere = await store.put("/lain/elsewhere/x", b"")
        lists = store.lists
        assert await mirror.catch_up() == elsewhere == mirror.revision
        assert names(mirror) == {"a", "b", "c", "d"}
        assert store.lists == lists, "one range above the known revision was enough"
        await records.delete("a")
        await records.put(Node("e", "1"), "e")
        await mirror.catch_up()
        assert names(mirror) == {"b", "c", "d", "e"}
        assert store.lists == lists + 1, "a differing count lists in full"


async def test_catching_up_with_a_store_that_is_away_fails_and_changes_nothing() -> None:
    store = MemoryStore()
    mirror = Mirror(nodes(store))
    async with running(mirror):
        await mirror.wait_whole()
        with store.outage(), pytest.raises(Unavailable):
            await mirror.catch_up()
        assert mirror.ready


async def test_a_mirror_that_never_ran_can_catch_up() -> None:
    store = MemoryStore()
    records = nodes(store)
    await records.put(Node("a", "1"), "a")
    mirror = Mirror(records)
    await mirror.catch_up()
    assert names(mirror) == {"a"}


async def test_stop_ends_it_wherever_it_stands() -> None:
    store = MemoryStore()
    for away in (True, False):
        mirror = Mirror(nodes(store))
        task = asyncio.create_task(mirror.run())
        if away:
            with store.outage():
                await eventually(lambda: mirror.trouble)  # noqa: B023
                mirror.stop()
                await task
        else:
            await mirror.wait_whole()
            mirror.stop()
            mirror.stop()
            await task


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "bad", "delete", "both", "compact", "outage", "catch_up", "pause"]),
            st.integers(0, 4),
        ),
        max_size=30,
    )
)
def test_it_ends_equal_to_the_store_whatever_happened(steps: list[tuple[str, int]]) -> None:
    asyncio.run(_follow_through(steps))


async def _follow_through(steps: list[tuple[str, int]]) -> None:
    store = MemoryStore()
    records = nodes(store)
    seen: list[int] = []
    mirror = Mirror(records, on_change=lambda: seen.append(mirror.revision), resync_seconds=3_600)
    async with running(mirror):
        for number, (step, which) in enumerate(steps):
            name = f"n{which}"
            match step:
                case "put":
                    await records.put(Node(name, str(number)), name)
                case "bad":
                    await store.put(keys.NODES.key(name), b"bad")
                case "delete":
                    await records.delete(name)
                case "both":
                    await store.txn([], [records.put_op(Node("x", str(number)), "x"), Delete(keys.NODES.key(name))])
                case "compact":
                    store.compact()
                case "outage":
                    with store.outage():
                        await asyncio.sleep(0.001)
                case "catch_up":
                    await mirror.catch_up()
                case _:
                    await asyncio.sleep(0.001)
        last = await store.txn([], [Put(keys.NODES.key("end"), records.encode(Node("end", "")))])
        async with asyncio.timeout(5):
            await mirror.wait_until(last)
        truth = (await store.list(keys.NODES.prefix)).entries
        good = {entry.key for entry in truth if entry.value != b"bad"}
        assert good <= mirror.snapshot().keys() <= {entry.key for entry in truth}
        assert mirror.bad.keys() == {entry.key for entry in truth if entry.value == b"bad"}
        for entry in truth:
            if entry.key in good:
                expected: Stored[Node] = Stored(records.decode(entry.key, entry.value), entry)
                assert mirror.snapshot()[entry.key] == expected
        assert seen == sorted(set(seen)), "each change is told once, in order"
