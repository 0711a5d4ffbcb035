"""Operations from start to end, on a store in memory and a controller that is stepped by hand: every ending."""

from __future__ import annotations

import pytest

from lain_console.apps import Apps
from lain_console.operations.start import AppBusy, TooLate
from lain_console.procs import Procs, Scaling
from lain_shared.errors import Conflict, Unavailable
from lain_shared.model.app import AppState, OperationKind, OperationPhase, Outcome, Release
from lain_shared.model.pod import ProcType
from lain_shared.testing import MemoryStore
from tests.fixtures.controller import Fate
from tests.unit.console.builders import Bench, deployed, proc, release_of, second, web


async def test_a_deploy_ends_with_the_release_running(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    app = await bench.app()
    assert (app.state, app.release, app.last_release) == (AppState.DEPLOYED, 1, 1)
    assert set(await bench.wanted()) == {"web", "old"}
    claimed = await bench.state.all_claims()
    assert {route: stored.value.proc for route, stored in claimed.routes.items()} == {
        ("hello.lain.localhost", "/"): "web"
    }
    assert await bench.state.holders.list() == ()
    record = await bench.last()
    assert record.steps[0].text == "deploy" and record.who == "ann"


async def test_an_upgrade_removes_what_the_release_lacks_only_once_the_rest_serves(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(second("new"))
    assert await bench.run(console, 5) is None
    assert set(await bench.wanted()) == {"web", "old", "new"}
    del bench.controller.fates["web@2-abc"]
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    assert set(await bench.wanted()) == {"web", "new"}


@pytest.mark.parametrize(
    ("fate", "code", "said"),
    [
        (Fate.CRASHES, "crashes_before_ready", "exited 3 times before it was ready"),
        (Fate.NO_IMAGE, "image_missing", "is not in the registry"),
    ],
)
async def test_a_failed_release_gives_way_to_the_one_before(bench: Bench, fate: Fate, code: str, said: str) -> None:
    console = await bench.console()
    await deployed(bench, console)
    before = await bench.wanted()
    bench.controller.fates["new@2-abc"] = fate
    await console.deploy(second("new"))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert record.failure.code == code and said in record.failure.message
    assert record.failure.evidence is not None and record.failure.instance == 1
    assert await bench.wanted() == before
    app = await bench.app()
    assert (app.state, app.release, app.last_release) == (AppState.DEPLOYED, 1, 2)


async def test_memory_that_is_in_use_is_refused_at_once_with_the_number(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    before = await bench.wanted()
    bench.controller.fates["web"] = Fate.LIMITS_REFUSED
    await bench.make_node()
    bench.clock.advance(1)
    began = bench.clock()
    await Procs(bench.state, console.starter).scale("hello", "web", Scaling(memory_bytes=16 << 20), "ann")
    assert await bench.run(console, 1) is None
    operation = await bench.operation()
    assert operation is not None and operation.phase is OperationPhase.ROLLING_BACK
    bench.controller.fates.clear()
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert (record.failure.code, record.failure.instance) == ("limits_refused", 1)
    assert "20.5 MiB are in use" in record.failure.message and "--memory" in record.failure.next
    assert bench.clock() - began < 30
    assert await bench.wanted() == before


async def test_a_deploy_without_progress_fails_after_its_deadline_and_not_before(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.NO_NODE
    await console.deploy(second())
    for _ in range(59):
        bench.clock.advance(5)
        assert await bench.run(console, 1) is None
    running = await bench.operation()
    assert running is not None and running.phase is OperationPhase.ROLLOUT
    for _ in range(3):
        bench.clock.advance(5)
        await bench.run(console, 1)
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert "made no progress for 300 s: no node fits" in record.failure.message


async def test_deadlines_do_not_run_while_nobody_could_look(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(second())
    assert await bench.run(console, 3) is None
    store = bench.store
    assert isinstance(store, MemoryStore)
    with store.outage():
        for _ in range(200):
            bench.clock.advance(5)
            with pytest.raises(Unavailable):
                await console.driver.one_pass()
    assert await bench.run(console, 3) is None, "the outage counted"
    for _ in range(59):
        bench.clock.advance(5)
        assert await bench.run(console, 1) is None
    bench.clock.advance(10)
    assert await bench.run(console) is not None


@pytest.mark.parametrize("skew", [-5000.0, 5000.0])
async def test_the_controllers_clock_decides_nothing(bench: Bench, skew: float) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.now = lambda: bench.clock() + skew
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(second())
    for _ in range(59):
        bench.clock.advance(5)
        assert await bench.run(console, 1) is None
    for _ in range(4):
        bench.clock.advance(5)
        await bench.run(console, 1)
    record = await bench.run(console)
    assert record is not None and record.failure is not None and record.failure.code == "deadline"


async def test_what_was_broken_before_is_not_the_operations_doing(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["old"] = Fate.CRASHES
    await bench.controller.one_pass()
    procs = Procs(bench.state, console.starter)
    await bench.make_node()
    bench.clock.advance(1)
    started = await procs.scale("hello", "old", Scaling(memory_bytes=64 << 20), "ann")
    assert started.operation is not None and started.operation.broken == ("old-1.g1",)
    assert await bench.run(console, 5) is None, "it is given its time"
    bench.controller.fates.clear()
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    assert (await bench.app()).overrides == {"old": {"memory_bytes": 64 << 20}}


async def test_going_back_to_what_was_broken_before_ends_at_once(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates = {"web": Fate.CRASHES}
    await bench.controller.one_pass()
    await console.deploy(second())
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.FAILED and record.failure is not None
    assert "does not serve either" in record.failure.message


async def test_a_controller_that_says_nothing_is_named(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.SILENT
    await console.deploy(second())
    await bench.run(console, 2)
    bench.clock.advance(9)
    await bench.run(console, 1)
    for _ in range(60):
        bench.clock.advance(5)
        await bench.run(console, 1)
    record = await bench.run(console)
    assert record is not None and record.failure is not None
    assert "the controller has not answered" in record.failure.message


async def test_a_failed_first_deploy_leaves_nothing_but_its_evidence(bench: Bench) -> None:
    console = await bench.console()
    await bench.register()
    bench.controller.fates["web"] = Fate.CRASHES
    await console.deploy(release_of(1, web(1, "hello.lain.localhost", "shop.example.org")))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.FAILED and record.failure is not None
    assert record.failure.evidence is not None and record.failure.evidence.last_lines == ("boom", "no database")
    app = await bench.app()
    assert (app.state, app.release) == (AppState.FAILED, None)
    assert await bench.wanted() == {}
    claims = await bench.state.all_claims()
    assert claims.routes == {} and claims.hosts == {}
    bench.controller.fates.clear()
    await console.deploy(release_of(2, web(2)))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    assert (await bench.app()).release == 2


async def test_when_the_release_before_does_not_serve_either_it_says_so_and_ends(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web"] = Fate.CRASHES
    await console.deploy(second())
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.FAILED and record.failure is not None
    assert "does not serve either" in record.failure.message
    assert (await bench.app()).release == 1 and set(await bench.wanted()) == {"web", "old"}


# --- oneshots ---------------------------------------------------------------------------------------------------------


def with_migration(number: int) -> Release:
    return release_of(number, proc("migrate", number, ProcType.ONESHOT), web(number))


async def test_oneshots_run_before_anything_else_and_once_a_release(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, with_migration(1))
    bench.controller.fates["migrate@2-abc"] = Fate.STARTING
    await console.deploy(with_migration(2))
    assert await bench.run(console, 5) is None
    assert (await bench.wanted())["web"].release == 1
    bench.controller.fates.clear()
    assert await bench.run(console) is not None
    assert (await bench.wanted())["web"].release == 2
    assert bench.controller.oneshots_run == [("migrate", 1), ("migrate", 2)]


async def test_a_failed_oneshot_stops_the_deploy_before_it_touched_anything(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, with_migration(1))
    bench.controller.fates["migrate@2-abc"] = Fate.FAILS
    await console.deploy(with_migration(2))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert record.failure.code == "oneshot_failed" and record.failure.proc == "migrate"
    assert record.failure.evidence is not None and record.failure.evidence.last_lines == ("no such column",)
    assert [(each.proc, each.release) for each in bench.controller.seen] == [("migrate", 1), ("web", 1), ("migrate", 2)]
    assert set(await bench.wanted()) == {"web"}, "no oneshot runs on the way back"


async def test_going_back_runs_no_oneshot(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, with_migration(1))
    bench.controller.fates["web@2-abc"] = Fate.CRASHES
    await console.deploy(with_migration(2))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK
    assert bench.controller.oneshots_run == [("migrate", 1), ("migrate", 2)]


# --- routes and claims ------------------------------------------------------------------------------------------------


async def test_claims_are_held_until_no_router_serves_them(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, release_of(1, web(1, "hello.lain.localhost", "old.example.org")))
    bench.controller.hold_endpoints = True
    await console.deploy(release_of(2, web(2, "hello.lain.localhost")))
    assert await bench.run(console, 10) is None
    running = await bench.operation()
    assert running is not None and running.phase is OperationPhase.RELEASING
    assert running.steps[-1].text == "waiting until no router serves old.example.org any more"
    assert ("old.example.org", "/") in (await bench.state.all_claims()).routes
    bench.controller.hold_endpoints = False
    assert await bench.run(console) is not None
    claims = await bench.state.all_claims()
    assert set(claims.routes) == {("hello.lain.localhost", "/")} and set(claims.hosts) == {"hello.lain.localhost"}


async def test_a_route_that_goes_is_kept_until_the_release_serves(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, release_of(1, web(1, "hello.lain.localhost", "hello.lain.localhost/old")))
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(release_of(2, web(2, "hello.lain.localhost")))
    await bench.run(console, 5)
    wanted = (await bench.wanted())["web"]
    assert [str(route) for route in wanted.routes] == ["hello.lain.localhost"]
    assert [str(route) for route in wanted.kept_routes] == ["hello.lain.localhost/old"]
    bench.controller.fates.clear()
    assert await bench.run(console) is not None
    assert (await bench.wanted())["web"].kept_routes == ()


# --- cancel and replace -----------------------------------------------------------------------------------------------


async def test_cancel_goes_back_to_the_parent(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    before = await bench.wanted()
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(second("new"))
    await bench.run(console, 5)
    await console.starter.cancel("hello", "bob")
    with pytest.raises(Conflict, match="already going back"):
        await console.starter.cancel("hello", "bob")
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.CANCELLED
    assert any(step.text == "bob asked to cancel" for step in record.steps)
    assert await bench.wanted() == before


async def test_cancel_is_refused_once_the_release_serves(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, release_of(1, web(1, "hello.lain.localhost", "old.example.org")))
    bench.controller.hold_endpoints = True
    await console.deploy(second())
    await bench.run(console, 10)
    with pytest.raises(TooLate, match="can no longer be cancelled"):
        await console.starter.cancel("hello", "bob")
    with pytest.raises(TooLate):
        await console.deploy(second(), replace_running=True)


async def test_cancel_of_nothing(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    with pytest.raises(Conflict, match="nothing runs"):
        await console.starter.cancel("hello", "bob")


async def test_a_second_deploy_is_told_who_since_when_and_how_far(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(second())
    await bench.run(console, 5)
    bench.clock.advance(74)
    with pytest.raises(AppBusy) as busy:
        await console.deploy(second(), who="bob")
    assert busy.value.message == "hello is busy: deploy of release 2 by ann, for 1 min 15 s, phase rollout"
    assert busy.value.evidence["holder"] == "c1" and busy.value.evidence["age_seconds"] == 75.0


async def test_replace_keeps_the_first_operations_parent(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    before = await bench.wanted()
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    first = await console.deploy(second("mid"))
    await bench.run(console, 5)
    bench.controller.fates["web@3-abc"] = Fate.CRASHES
    replacing = await console.deploy(release_of(3, web(3), proc("new", 3)), replace_running=True, who="bob")
    assert (replacing.parent, replacing.release) == (1, 3)
    replaced = (await bench.state.history.get("hello", first.id)) or pytest.fail("no history of the replaced one")
    assert replaced.value.outcome is Outcome.REPLACED
    assert replaced.value.steps[-1].text == "replaced by a deploy of bob"
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.ROLLED_BACK
    assert await bench.wanted() == before, "back to what stood before both"
    bench.controller.fates.clear()
    await console.deploy(second("mid"))
    await console.deploy(release_of(5, web(5), proc("new", 5)), replace_running=True)
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    assert set(await bench.wanted()) == {"web", "new"} and (await bench.app()).release == 5


async def test_a_release_number_is_never_given_out_twice(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates["web@2-abc"] = Fate.CRASHES
    for expected in (2, 3, 4):
        operation = await console.deploy(second())
        assert operation.release == expected
        assert await bench.run(console) is not None


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_fifty_operations_and_twenty_releases_are_kept_and_never_the_running_ones(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console)
    bench.controller.fates = {f"web@{number}-abc": Fate.CRASHES for number in range(2, 70)}
    for number in range(2, 58):
        bench.clock.advance(1)
        await console.deploy(release_of(number, web(number)))
        assert await bench.run(console) is not None
    releases = [stored.value.number for stored in await bench.state.releases.list("hello")]
    assert releases[0] == 1 and releases[1:] == list(range(38, 58)), "the running release is never deleted"
    assert len(await bench.state.history.list("hello")) == 50


async def test_undeploy_gives_everything_back_but_the_name(bench: Bench) -> None:
    console = await bench.console()
    await deployed(bench, console, release_of(1, web(1, "hello.lain.localhost", "x.example.org"), proc("old", 1)))
    operation, _ = await Apps(bench.state, console.starter, bench.clock).undeploy("hello", "ann")
    assert operation.kind is OperationKind.UNDEPLOY
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    app = await bench.app()
    assert (app.state, app.release) == (AppState.REGISTERED, None)
    assert await bench.wanted() == {} and (await bench.state.all_claims()).routes == {}
    assert [each.value.number for each in await bench.state.releases.list("hello")] == [1]
