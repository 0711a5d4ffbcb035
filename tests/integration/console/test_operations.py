"""Operations through the SDK, on real etcd and a real registry: each kind from asking to its end, and several at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lain_sdk.api_types import Accepted
from lain_sdk.client import Console
from lain_shared.errors import Conflict, Invalid, NotFound, Refused
from lain_shared.model.app import AppState, OperationPhase, Outcome
from lain_shared.model.status import ProcStatus
from lain_shared.testing import eventually
from tests.fixtures.console import TWO, ClusterForConsole, deploy, done, manifest, mounted
from tests.fixtures.controller import Fate

# --- deploy, roll back, undeploy --------------------------------------------------------------------------------------


async def test_deploy_upgrade_and_roll_back(cluster: ClusterForConsole, lain: Console) -> None:
    first = await deploy(cluster, lain, "1-aaa", manifest(procs=TWO))
    assert first.outcome is Outcome.SUCCEEDED and first.who == "ann"
    app = await lain.app("hello")
    assert (app.state, app.release, app.meta_version, app.deployed_by) == (AppState.DEPLOYED, 1, "1-aaa", "ann")
    assert [(proc.name, proc.ready, len(proc.pods)) for proc in app.procs] == [("mailer", 2, 2), ("web", 1, 1)]
    assert "http://hello.lain.localhost:8080/" in [route.url for route in app.routes]
    second = await deploy(cluster, lain, "2-bbb", manifest(procs="web: {cmd: serve, port: 8000}"))
    assert second.release == 2 and [proc.name for proc in (await lain.app("hello")).procs] == ["web"]
    back = await done(lain, await lain.rollback("hello"))
    assert (back.release, back.meta_version, back.outcome) == (3, "1-aaa", Outcome.SUCCEEDED)
    app = await lain.app("hello")
    assert (app.release, app.meta_version) == (3, "1-aaa") and len(app.procs) == 2
    releases = await lain.releases("hello")
    assert [(each.number, each.rollback_of, each.current) for each in releases] == [
        (3, 1, True), (2, None, False), (1, None, False),
    ]  # fmt: skip
    assert (await lain.release("hello", 2)).manifest == manifest(procs="web: {cmd: serve, port: 8000}")
    with pytest.raises(Conflict, match="no release before 1"):
        await lain.rollback("hello")
    assert (await done(lain, await lain.rollback("hello", 2))).meta_version == "2-bbb"
    assert [record.kind.value for record in await lain.history("hello")] == ["rollback", "rollback", "deploy", "deploy"]
    with pytest.raises(NotFound):
        await lain.rollback("hello", 99)


async def test_a_rollback_whose_image_is_gone_moves_nothing(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa")
    image = (await lain.proc("hello", "web")).image
    await deploy(cluster, lain, "2-bbb")
    cluster.images.delete(*image.split("@"))
    with pytest.raises(Refused, match="release 1 cannot run again"):
        await lain.rollback("hello")
    assert (await lain.app("hello")).release == 2


async def test_a_bad_release_never_takes_the_good_one_away(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa")
    cluster.controller.fates["web@2-bbb"] = Fate.CRASHES
    record = await deploy(cluster, lain, "2-bbb")
    assert record.outcome is Outcome.ROLLED_BACK and record.failure is not None
    assert record.failure.evidence is not None and record.failure.evidence.last_lines == ("boom", "no database")
    app = await lain.app("hello")
    assert (app.release, app.meta_version, app.healthy) == (1, "1-aaa", True)
    assert app.failure is not None and app.failure.code == "crashes_before_ready"
    explained = await lain.explain("hello")
    assert "the last deploy failed" in explained.findings[0].what and "| boom" in explained.findings[0].evidence


async def test_one_proc_alone(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa", manifest(procs=TWO))
    await cluster.release("2-bbb", manifest(procs=TWO))
    record = await done(lain, await lain.deploy("hello", "2-bbb", proc="mailer"))
    assert record.outcome is Outcome.SUCCEEDED
    wanted = {each.value.proc: each.value for each in await cluster.state.desired.list("hello")}
    versions = {name: each.template.env["LAIN_APP_RELEASE_VERSION"] for name, each in wanted.items()}
    assert versions == {"web": "1-aaa", "mailer": "2-bbb"}
    changed = await done(lain, await lain.set_env("hello", {"MODE": "x"}))
    assert changed.outcome is Outcome.SUCCEEDED
    wanted = {each.value.proc: each.value for each in await cluster.state.desired.list("hello")}
    versions = {name: each.template.env["LAIN_APP_RELEASE_VERSION"] for name, each in wanted.items()}
    assert versions == {"web": "1-aaa", "mailer": "2-bbb"}
    with pytest.raises(NotFound, match="no proc 'nobody'"):
        await lain.deploy("hello", proc="nobody")


async def test_undeploy_keeps_the_name_the_releases_and_the_volumes(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    stored = await cluster.state.node_states.get("n1")
    assert stored is not None
    volumes = ("hello.db-1", "hello.db-2", "hellos.db-1", "x.hello-1")
    await cluster.state.node_states.put(replace(stored.value, volumes=volumes), "n1")
    accepted = await lain.undeploy("hello")
    assert [volume.name for volume in accepted.volumes] == ["hello.db-1", "hello.db-2"]
    assert (await done(lain, accepted)).outcome is Outcome.SUCCEEDED
    app = await lain.app("hello")
    assert (app.state, app.release, app.procs) == (AppState.REGISTERED, None, ())
    assert [repo.name for repo in await lain.repos()] == ["hello"] and await lain.apps() == ()
    with pytest.raises(NotFound, match="not deployed"):
        await lain.undeploy("hello")
    assert (await deploy(cluster, lain, "2-bbb")).release == 2


# --- scale, restart, stop, start, env ---------------------------------------------------------------------------------


async def test_scale_wins_over_the_manifest_until_it_is_reset(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa")
    await done(lain, await lain.scale("hello", "web", 4, memory="128M"))
    web = await lain.proc("hello", "web")
    assert (web.instances, web.memory_bytes, web.ready) == (4, 128 << 20, 4)
    assert (web.manifest_instances, web.manifest_memory_bytes) == (1, 32 << 20)
    await cluster.release("2-bbb", manifest(procs="web: {cmd: serve, port: 8000, memory: 64m, num_instances: 2}"))
    plan = await lain.plan("hello", "2-bbb")
    assert [problem.message for problem in plan.warnings] == [
        "web: instances stays 4, the manifest says 2",
        "web: memory_bytes stays 134217728, the manifest says 67108864",
    ]
    await done(lain, await lain.deploy("hello", "2-bbb"))
    web = await lain.proc("hello", "web")
    assert (web.instances, web.memory_bytes, web.overrides.instances) == (4, 128 << 20, 4)
    await done(lain, await lain.scale("hello", "web", reset=True))
    web = await lain.proc("hello", "web")
    assert (web.instances, web.memory_bytes, web.overrides.any) == (2, 64 << 20, False)
    await done(lain, await lain.scale("hello", "web", 2))
    assert (await lain.proc("hello", "web")).overrides.instances == 2, "the same number, but from now on set"
    with pytest.raises(NotFound):
        await lain.scale("hello", "nobody", 1)


async def test_what_scale_set_can_be_taken_back_while_the_app_is_not_deployed(
    cluster: ClusterForConsole, lain: Console
) -> None:
    """It outlives an undeploy, and may be the very reason why the app fits on no node any more."""
    await deploy(cluster, lain, "1-aaa")
    await done(lain, await lain.scale("hello", "web", 3))
    await done(lain, await lain.undeploy("hello"))
    accepted = await lain.scale("hello", "web", reset=True)
    assert accepted.operation is None
    with pytest.raises(NotFound, match="not deployed"):
        await lain.scale("hello", "web", reset=True)
    await deploy(cluster, lain, "1-aaa")
    assert (await lain.proc("hello", "web")).instances == 1


@pytest.mark.parametrize(
    "body",
    [{}, {"instances": "3"}, {"instances": -1}, {"memory": "abc"}, {"cpu": 9}, {"operation": "explode"},
     {"operation": "restart", "instances": 2}, {"instance": 1}, {"instances": 2, "colour": "red"}],
)  # fmt: skip
async def test_a_wrong_patch_is_refused(lain: Console, body: dict[str, object]) -> None:
    await lain.register("hello")
    with pytest.raises(Invalid):
        await lain.http.patch("/api/v1/apps/hello/procs/web/", json=body)


async def test_a_scale_that_no_node_can_hold_is_refused(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    with pytest.raises(Refused, match="no node fits"):
        await lain.scale("hello", "web", memory="8g")
    cluster.controller.fates["web"] = Fate.CRASHES
    record = await done(lain, await lain.scale("hello", "web", 3))
    assert record.outcome in (Outcome.ROLLED_BACK, Outcome.FAILED)
    assert (await lain.proc("hello", "web")).instances == 1


async def test_restart_stop_and_start(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, text=manifest(procs=TWO))
    await done(lain, await lain.restart("hello", "mailer", 2))
    wanted = await cluster.state.desired.get("hello", "mailer")
    assert wanted is not None and wanted.value.restarts == {2: 1}
    await done(lain, await lain.stop("hello", "mailer", 1))
    assert (await lain.proc("hello", "mailer")).stopped == (1,)
    with pytest.raises(Conflict, match="is stopped"):
        await lain.restart("hello", "mailer", 1)
    with pytest.raises(NotFound, match="no instance 3"):
        await lain.restart("hello", "mailer", 3)
    assert (await lain.stop("hello", "mailer", 1)).operation is None, "it is stopped already"
    await done(lain, await lain.stop("hello"))
    app = await lain.app("hello")
    assert {proc.name: proc.stopped for proc in app.procs} == {"mailer": (1, 2), "web": (1,)} and app.healthy
    explained = await lain.explain("hello")
    assert {finding.what for finding in explained.findings} == {"mailer does not run", "web does not run"}
    await deploy(cluster, lain, "2-bbb", manifest(procs=TWO))
    assert (await lain.proc("hello", "web")).stopped == (1,), "a deploy does not start what was stopped"
    await done(lain, await lain.start("hello"))
    assert all(not proc.stopped for proc in (await lain.app("hello")).procs)


async def test_the_environment_makes_a_release(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    assert (await lain.set_env("hello", {"MODE": "early"})).operation is None
    await deploy(cluster, lain, text=manifest(procs="web: {cmd: serve, port: 80, env: [MODE=manifest, OTHER=x]}"))
    wanted = await cluster.state.desired.get("hello", "web")
    assert wanted is not None and wanted.value.template.env["MODE"] == "early"
    await done(lain, await lain.set_env("hello", {"KEY": "value"}, unset=["MODE"]))
    wanted = await cluster.state.desired.get("hello", "web")
    assert wanted is not None
    assert (wanted.value.template.env["MODE"], wanted.value.template.env["KEY"]) == ("manifest", "value")
    env = await lain.env("hello")
    assert (env.set, env.running) == ({"KEY": "value"}, {"KEY": "value"})
    assert env.manifest == {"web": {"MODE": "manifest", "OTHER": "x"}}
    cluster.controller.fates["web"] = Fate.CRASHES
    record = await done(lain, await lain.set_env("hello", {"KEY": "bad"}))
    assert record.outcome is Outcome.FAILED
    assert (await lain.env("hello")).set == {"KEY": "value"}, "what failed is not kept"
    cluster.controller.fates.clear()
    await done(lain, await lain.rollback("hello", 1))
    assert (await lain.env("hello")).set == {"MODE": "early"}, "a release is its environment too"
    for bad in ({"1X": "a"}, {"LAIN_APPNAME": "x"}, {"A": "x\0"}):
        with pytest.raises(Invalid):
            await lain.set_env("hello", bad)
    assert (await lain.set_env("hello", {"MODE": "early"})).operation is None


# --- several at once --------------------------------------------------------------------------------------------------


async def test_of_two_concurrent_deploys_one_wins_and_the_other_is_told(
    cluster: ClusterForConsole, lain: Console
) -> None:
    other = await cluster.client(await cluster.console("c2"), name="bob")
    await deploy(cluster, lain, "1-aaa")
    cluster.controller.fates["web"] = Fate.STARTING
    for version in ("2-bbb", "3-ccc"):
        await cluster.release(version)
    results = await asyncio.gather(
        lain.deploy("hello", "2-bbb"), other.deploy("hello", "3-ccc"), return_exceptions=True
    )
    won = [result for result in results if isinstance(result, Accepted)]
    lost = [result for result in results if isinstance(result, Conflict)]
    assert len(won) == len(lost) == 1 and lost[0].error_code == "busy"
    assert lost[0].evidence["holder"] in ("c1", "c2") and lost[0].evidence["phase"] in ("oneshots", "rollout")
    for busy in (lain.scale("hello", "web", 2), lain.undeploy("hello"), lain.rollback("hello"), lain.restart("hello")):
        with pytest.raises(Conflict, match="hello is busy"):
            await busy
    plan = await lain.plan("hello", "2-bbb")
    assert [problem.code for problem in plan.warnings] == ["busy"]
    cluster.controller.fates.clear()
    record = await done(lain, won[0])
    wanted = await cluster.state.desired.list("hello")
    assert {each.value.template.env["LAIN_APP_RELEASE_VERSION"] for each in wanted} == {record.meta_version}


async def test_cancel_and_replace(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa")
    cluster.controller.fates["web@2-bbb"] = Fate.STARTING
    await cluster.release("2-bbb")
    first = await lain.deploy("hello", "2-bbb")
    operation = await lain.operation("hello")
    assert operation is not None and (operation.who, operation.parent, operation.holder) == ("ann", 1, "c1")
    view = await lain.cancel("hello")
    assert view.cancel_requested
    assert (await done(lain, first)).outcome is Outcome.CANCELLED
    assert await lain.operation("hello") is None and (await lain.app("hello")).release == 1
    second = await lain.deploy("hello", "2-bbb")
    await cluster.release("3-ccc")
    third = await lain.deploy("hello", "3-ccc", replace=True)
    assert (await done(lain, second)).outcome is Outcome.REPLACED
    record = await done(lain, third)
    assert (record.outcome, record.parent) == (Outcome.SUCCEEDED, 1)
    await lain.deploy("hello", "2-bbb")
    scaled = await done(lain, await lain.scale("hello", "web", 3, replace=True))
    assert scaled.outcome is Outcome.SUCCEEDED
    app = await lain.app("hello")
    assert (app.meta_version, app.procs[0].instances) == ("3-ccc", 3)
    with pytest.raises(Conflict, match="nothing runs"):
        await lain.cancel("hello")


async def test_progress_is_told_as_it_comes_and_each_step_once(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    await cluster.release("1-aaa", manifest(procs=TWO + "\noneshot.migrate: {cmd: migrate}"))
    steps: list[str] = []
    statuses: list[ProcStatus] = []
    accepted = await lain.deploy("hello")
    assert accepted.operation is not None
    async with asyncio.timeout(20):
        record = await lain.wait(
            "hello", accepted.operation.id, on_step=lambda step: steps.append(step.text), on_status=statuses.append
        )
    assert steps == [step.text for step in record.steps]
    assert steps[:2] == ["deploy of release 1 (1-aaa)", "running migrate once"]
    assert "migrate exited 0" in steps and "mailer serves: 2 ready at release 1" in steps
    again = await lain.wait("hello", accepted.operation.id)
    assert again == record, "an operation that ended is told at once"
    with pytest.raises(NotFound):
        await lain.wait("hello", "never-was")
    with pytest.raises(NotFound):
        await anext(aiter(lain.events("hello")))


async def test_a_deploy_waits_for_routers_to_let_go_and_says_so(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa", mounted("hello", "old.example.org"))
    cluster.controller.hold_endpoints = True
    await cluster.release("2-bbb", manifest())
    accepted = await lain.deploy("hello", "2-bbb")

    async def waiting() -> bool:
        operation = await lain.operation("hello")
        return operation is not None and operation.phase is OperationPhase.RELEASING and len(operation.steps) > 3

    await eventually(waiting, what="it waits for the routers")
    with pytest.raises(Refused, match="can no longer be cancelled"):
        await lain.cancel("hello")
    cluster.controller.hold_endpoints = False
    assert (await done(lain, accepted)).outcome is Outcome.SUCCEEDED
