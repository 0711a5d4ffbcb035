"""The controller when things go wrong: bad records, stores that go away or lie, leaders that sleep."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from lain_deployd.controller import loops
from lain_deployd.controller.actions import PutStatus
from lain_deployd.controller.decide import Decider, Decision
from lain_deployd.controller.execute import Executor
from lain_deployd.controller.loops import Contact, Controller
from lain_deployd.controller.mirrors import Mirrors
from lain_deployd.controller.view import Limits
from lain_deployd.metrics import ControllerMetrics
from lain_shared import keys
from lain_shared.errors import Invalid
from lain_shared.etcd import EtcdStore
from lain_shared.lease import Leadership, NotLeader
from lain_shared.mirror import NotYetWhole
from lain_shared.model.pod import Desired, PodTemplate, ProcType
from lain_shared.model.status import ProcPhase, ProcStatus
from lain_shared.records import Records
from lain_shared.store import Delete, Expectation, Write
from lain_shared.testing import ManualClock, MemoryStore, eventually
from tests.fixtures.parts import running
from tests.integration.deployd.fake_parts import FakeAgent
from tests.integration.deployd.test_controller_rollout import replica, stage, wanted


async def test_a_record_that_cannot_be_read_freezes_its_app_alone() -> None:
    store = MemoryStore()
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        before = (await store.list(keys.ASSIGN.prefix)).entries
        await store.put(keys.DESIRED.key("hello", "worker"), b'{"v": 99, "from": "the future"}')
        await on.want(wanted(release=2, instances=5))
        other = replace(wanted(), app="other")
        await Records(store, keys.DESIRED, Desired).put(other, "other", "web")

        async def frozen() -> bool:
            status = await Records(store, keys.STATUS, ProcStatus).get("other", "web")
            assert status is not None and status.value.phase is ProcPhase.STABLE
            assert keys.DESIRED.key("hello", "worker") in (await on.status()).message
            return True

        await eventually(frozen)
        after = [entry for entry in (await store.list(keys.ASSIGN.prefix)).entries if "hello" in entry.key]
        assert [entry.key for entry in after] == [entry.key for entry in before]
        assert await store.get(keys.DESIRED.key("hello", "worker")) is not None, "reported, never deleted"
        await store.delete(keys.DESIRED.key("hello", "worker"))
        await eventually(lambda: len(on.agent.started) == 5 + 2, what="it goes on")


async def test_nothing_is_decided_before_every_family_was_read() -> None:
    store = MemoryStore()
    mirrors = Mirrors(store, lambda: None)
    async with running(*mirrors.parts[:-1]):
        await eventually(lambda: all(mirror.ready for mirror in mirrors.parts[:-1]))
        with pytest.raises(NotYetWhole):
            mirrors.snapshots()
        async with running(mirrors.parts[-1]):
            await mirrors.wait_whole()
            assert mirrors.snapshots().desired == {}


async def test_a_leader_that_slept_writes_nothing(store: EtcdStore) -> None:
    """Its lease ended while it was deciding; another leads; what it sends then is refused, whatever it believes."""
    first = Leadership(store, "deployd", "first")
    async with stage(store) as on:
        mirrors = Mirrors(store, lambda: None)
        async with running(first, *mirrors.parts):
            await eventually(lambda: first.is_leader)
            fence = first.fence()
            controller = Controller(store, first, mirrors, ControllerMetrics(), Limits())
            await on.want(wanted())
            await mirrors.wait_whole()
            await mirrors.catch_up()
            decision = controller.decider.decide(mirrors.snapshots(), time.time())
            assert decision.writes
            await store.txn([], [Delete(first.key)])
            async with running(second := Leadership(store, "deployd", "second")):
                await eventually(lambda: second.is_leader or first.is_leader)
                with pytest.raises(NotLeader):
                    await Executor(store, first, ControllerMetrics()).execute(decision.writes, fence)
        assert not (await store.list(keys.ASSIGN.prefix)).entries


@pytest.mark.parametrize("applied", [True, False])
async def test_a_write_whose_fate_is_unknown_is_looked_at_again(applied: bool) -> None:
    store = MemoryStore()
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        revision = await on.want(wanted(instances=3))
        store.uncertain_next(applied=applied)
        await eventually(on.stable(revision))
        await eventually(on.stable(await on.want(wanted(instances=4))))
        assert len(on.agent.started) == 4, "no pod was created twice"


async def test_the_store_goes_away_and_nothing_moves_for_it() -> None:
    store = MemoryStore()
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        before = list(on.agent.started)
        with store.outage():
            began = time.monotonic()
            await eventually(lambda: time.monotonic() - began > 2.5, what="the leader's lease ran out")
        await eventually(on.stable(await on.want(wanted(instances=3))))
        assert on.agent.started[: len(before)] == before and len(on.agent.started) == 3
        assert not on.agent.stopped


async def test_a_node_that_vanishes_gets_its_pods_replaced(store: EtcdStore) -> None:
    async with stage(store, replica(store, "one")) as on:
        await eventually(on.stable(await on.want(wanted())))
        second = FakeAgent(store, "n2")
        await second.join()
        async with running(second):
            await on.agent.vanish()
            await eventually(lambda: len(second.started) == 2, what="both instances are started on the other node")

            async def replaced() -> bool:
                endpoints = await on.endpoints()
                return len(endpoints.ready) == 2 and not endpoints.suspect

            await eventually(replaced)


def test_an_outage_longer_than_a_lease_gives_a_lease_of_grace() -> None:
    clock = ManualClock()
    contact = Contact(5.0, clock)
    contact.made()
    clock.advance(4.0)
    contact.made()
    assert contact.grace_seconds == 0.0 and not contact.overdue
    clock.advance(6.0)
    assert contact.overdue
    contact.made()
    assert contact.grace_seconds == 5.0 and not contact.overdue
    clock.advance(2.0)
    assert contact.grace_seconds == 3.0


def test_a_controller_that_started_into_an_outage_gives_grace_too() -> None:
    clock = ManualClock()
    contact = Contact(5.0, clock)
    clock.advance(6.0)
    contact.made()
    assert contact.grace_seconds == 5.0


@dataclass
class Led:
    """A controller that leads, whose passes the test makes; ``wall`` is its wall clock, which may be set anew."""

    wall: list[float]
    steady: ManualClock
    controller: Controller

    async def until(self, what: Callable[[], object]) -> None:
        async def look() -> object:
            await self.controller.one_pass()
            return what()

        await eventually(look)


@asynccontextmanager
async def leading(store: MemoryStore) -> AsyncIterator[Led]:
    leadership, mirrors = Leadership(store, "deployd", "one"), Mirrors(store, lambda: None)
    wall, steady = [time.time()], ManualClock()
    async with running(leadership, *mirrors.parts):
        await eventually(lambda: leadership.is_leader)
        controller = Controller(
            store, leadership, mirrors, ControllerMetrics(), Limits(), clock=lambda: wall[0], steady=steady
        )
        yield Led(wall, steady, controller)


async def test_the_first_look_after_an_outage_takes_no_node_for_lost() -> None:
    """Whoever looks first, the deciding loop or the pulse: the agents were cut off just as the leader was."""
    store = MemoryStore()
    agent = FakeAgent(store, "n1")
    await agent.join()
    await Records(store, keys.DESIRED, Desired).put(wanted(), "hello", "web")
    async with leading(store) as led:
        controller = led.controller
        await controller.one_pass()
        assert len((await store.list(keys.ASSIGN.prefix)).entries) == 2
        await agent.vanish()
        led.steady.advance(10.0)
        await led.until(lambda: "n1" not in controller.decider.world.present)
        assert not controller.decider.nodes.lost
        for seconds in range(1, 10):
            led.steady.advance(1.0)
            await controller.pulse()
            await controller.one_pass()
            assert controller.decider.nodes.lost == (set() if seconds < 5 else {"n1"})


@pytest.mark.parametrize("seconds", [-3_600.0, 3_600.0])
async def test_a_clock_that_is_set_anew_keeps_no_app_waiting_for_it(seconds: float) -> None:
    store = Choosy()
    await FakeAgent(store, "n1").join()
    await Records(store, keys.DESIRED, Desired).put(wanted(), "hello", "web")
    async with leading(store) as led:
        store.refused = "hello"
        await led.until(lambda: led.controller.decider.tries_at)
        store.refused = ""
        led.wall[0] += seconds
        await led.controller.one_pass()
        assert len((await store.list(keys.ASSIGN.prefix)).entries) == 2
        again = Desired("more", "web", ProcType.WORKER, 1, PodTemplate("good"), 1)
        await Records(store, keys.DESIRED, Desired).put(again, "more", "web")
        led.wall[0] += 1.0
        led.steady.advance(1.0)
        await led.until(lambda: "more" in led.controller.decider.world.apps)
        assert len((await store.list(keys.ASSIGN.prefix)).entries) == 3


class Choosy(MemoryStore):
    """Refuses every transaction that touches one app."""

    refused = ""

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        if self.refused and any(f"/{self.refused}" in write.key for write in writes):
            raise Invalid("etcdserver: request is too large")
        return await super().txn(expect, writes)


async def test_an_app_that_cannot_be_written_delays_no_other() -> None:
    store = Choosy()
    daemon = replica(store, "one")
    async with stage(store, daemon) as on:
        await Records(store, keys.DESIRED, Desired).put(replace(wanted(), app="big"), "big", "web")
        store.refused = "big"
        await eventually(on.stable(await on.want(wanted())))
        for release in range(2, 5):
            await eventually(on.stable(await on.want(wanted(release=release))))
        controller = next(part for part in daemon.parts if part.name == "controller")
        assert controller.ready and getattr(controller, "last_error", "") == "", "the loop does not back off for it"
        store.refused = ""

        async def written() -> bool:
            status = await Records(store, keys.STATUS, ProcStatus).get("big", "web")
            return status is not None and status.value.phase is ProcPhase.STABLE

        await eventually(written, timeout_seconds=20)


async def test_an_app_that_cannot_be_put_into_words_stops_no_other() -> None:
    """A key that is no text stands in why it is frozen; that cannot be encoded, and is nobody else's trouble."""
    store = MemoryStore()
    leadership = Leadership(store, "deployd", "one")
    async with running(leadership):
        await eventually(lambda: leadership.is_leader)
        fine = ProcStatus("fine", "web", 1, 1, ProcPhase.STABLE, 1, 1, 1, 0.0)
        odd = replace(fine, app="odd", message="/lain/desired/odd/\udcff cannot be read")
        writes = {status.app: (PutStatus(status, 0),) for status in (odd, fine)}
        outcome = await Executor(store, leadership, ControllerMetrics()).execute(writes, leadership.fence())
        assert list(outcome.failed) == ["odd"]
        assert await store.get(keys.STATUS.key("fine", "web")) is not None


async def test_a_leader_that_takes_long_to_decide_leads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look at some ten thousand pods takes longer than a lease: each new leader would lose it over that look."""
    decide = Decider.decide

    def slow(*args: Any, **more: Any) -> Decision:
        time.sleep(3.0)
        return decide(*args, **more)

    monkeypatch.setattr(Decider, "decide", slow)
    monkeypatch.setattr(loops, "MANY_PODS", -1)
    store = MemoryStore()
    leadership, mirrors = Leadership(store, "deployd", "one"), Mirrors(store, lambda: None)
    lost: list[int] = []
    leadership.on_lost = lambda: lost.append(1)
    async with running(*mirrors.parts, leadership):
        await eventually(lambda: leadership.is_leader)
        await Controller(store, leadership, mirrors, ControllerMetrics(), Limits()).one_pass()
        assert leadership.is_leader and not lost
