"""The console through its client, on real etcd and a real registry: what people do, and what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace

import pytest

from lain_sdk.api_types import Accepted, ChangeAction, Severity, Verdict
from lain_sdk.client import Console
from lain_shared import platform_look
from lain_shared.errors import Conflict, Denied, Invalid, NotFound, Refused, Unauthenticated, Unavailable
from lain_shared.model.app import AppState, HistoryRecord, OperationPhase, Outcome
from lain_shared.model.config import Role
from lain_shared.model.node import Switch
from lain_shared.model.status import ProcStatus
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, manifest
from tests.fixtures.controller import Fate
from tests.fixtures.registry import ImageRegistry

TWO = "web: {cmd: serve, port: 8000}\nworker.mailer: {cmd: mail, num_instances: 2}"


async def done(lain: Console, accepted: Accepted, app: str = "hello") -> HistoryRecord:
    """How the operation that was accepted ended."""
    assert accepted.operation is not None, accepted.plan
    async with asyncio.timeout(20):
        return await lain.wait(app, accepted.operation.id)


async def deploy(
    cluster: ClusterForConsole, lain: Console, version: str = "1-aaa", text: str | None = None, app: str = "hello"
) -> HistoryRecord:
    """Register if need be, push, deploy and wait."""
    if app not in {repo.name for repo in await lain.repos()}:
        await lain.register(app)
    await cluster.release(version, text, app)
    return await done(lain, await lain.deploy(app, version), app)


# --- registration -----------------------------------------------------------------------------------------------------


async def test_a_name_is_registered_once(lain: Console) -> None:
    repo = await lain.register("hello", "git@git.example.org:team/hello.git")
    assert repo.owner == "ann" and repo.state is AppState.REGISTERED
    assert repo.hosts == ("hello.lain", "hello.lain.localhost")
    assert repo.giturl == "ssh://git@git.example.org/team/hello"
    with pytest.raises(Conflict, match="the name 'hello' is taken") as taken:
        await lain.register("hello")
    assert taken.value.error_code == "name_taken" and taken.value.why == "ann registered it"


@pytest.mark.parametrize("name", ["a/b", "1x", "service", "A-b", "a--b", "a.b", "resource.redis.hello", "é"])
async def test_a_bad_name_is_refused(lain: Console, name: str) -> None:
    with pytest.raises(Invalid):
        await lain.register(name)
    assert await lain.repos() == ()


async def test_a_name_whose_host_is_taken_names_the_owner(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, text=manifest(procs="web: {cmd: serve, port: 80, mountpoint: [shop.lain.localhost]}"))
    with pytest.raises(Conflict, match=r"host shop\.lain\.localhost belongs to app 'hello'"):
        await lain.register("shop")


async def test_a_name_is_given_back(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    with pytest.raises(Conflict, match="deployed"):
        await lain.unregister("hello")
    await done(lain, await lain.undeploy("hello"))
    await lain.unregister("hello")
    assert await lain.repos() == ()
    assert (await cluster.state.all_claims()).hosts == {}
    assert (await lain.register("hello")).release is None


# --- who may do what --------------------------------------------------------------------------------------------------


async def test_nobody_gets_nothing(cluster: ClusterForConsole, lain: Console) -> None:
    for token in (None, "nonsense", "a.b.c"):
        async with Console(lain.url, token=token) as nobody:
            with pytest.raises(Unauthenticated):
                await nobody.apps()
            with pytest.raises(Unauthenticated):
                await nobody.register("hello")


async def denied(*calls: Awaitable[object]) -> None:
    for call in calls:
        with pytest.raises(Denied):
            await call


async def test_rights_are_per_app_and_role(cluster: ClusterForConsole, lain: Console) -> None:
    console = await cluster.console("c2")
    await deploy(cluster, lain)
    await deploy(cluster, lain, app="other")
    viewer = await cluster.client(console, Role.VIEWER, "hello", name="vic")
    maintainer = await cluster.client(console, Role.MAINTAINER, "hello", name="may")
    auditor = await cluster.client(console, Role.AUDITOR, name="aud")
    assert [app.name for app in await viewer.apps()] == ["hello"] and (await viewer.app("hello")).healthy
    assert [repo.name for repo in await viewer.repos()] == ["hello"]
    await denied(viewer.app("other"), viewer.deploy("hello"), viewer.env("hello"), viewer.register("new"))
    await denied(maintainer.register("new"), maintainer.unregister("hello"), maintainer.tokens())
    record = await done(maintainer, await maintainer.restart("hello"))
    assert record.who == "may"
    assert len(await auditor.apps()) == 2
    await denied(auditor.scale("hello", "web", 2), auditor.config("cluster"))
    with pytest.raises(NotFound):
        await lain.app("nobody")


async def test_tokens_are_shown_once_listed_and_revoked(cluster: ClusterForConsole, lain: Console) -> None:
    issued = await lain.issue_token("ci", Role.MAINTAINER, ["hello"], expires_in_seconds=3600)
    async with Console(lain.url, token=issued.text) as ci:
        who = await eventually(ci.whoami, what="the token is known")
        assert (who.name, who.role, who.apps) == ("ci", "maintainer", ("hello",))
        listed = {token.id: token for token in await lain.tokens()}
        assert listed[issued.token.id].created_by == "ann" and not listed[issued.token.id].revoked
        stored = await cluster.store.list("/lain/tokens/")
        assert not any(issued.text.encode() in entry.value for entry in stored.entries)
        await lain.revoke_token(issued.token.id)
        await lain.revoke_token(issued.token.id)

        async def refused() -> bool:
            try:
                await ci.whoami()
            except Unauthenticated:
                return True
            return False

        await eventually(refused, what="the revoked token is refused")
    with pytest.raises(NotFound):
        await lain.revoke_token("nobody")
    with pytest.raises(Invalid):
        await lain.issue_token("x", Role.OPERATOR, ["hello"])
    with pytest.raises(Invalid):
        await lain.issue_token("x", Role.OPERATOR, expires_in_seconds=10 * 365 * 86400)


async def test_configuration_is_read_and_changed_with_care(lain: Console) -> None:
    assert set(await lain.config_names()) == {"cluster", "jwks"}
    config = await lain.config("cluster")
    changed = await lain.set_config("cluster", {**config.value, "timezone": "Europe/Rome"}, revision=config.revision)
    assert changed.value["timezone"] == "Europe/Rome"
    with pytest.raises(Conflict, match="somebody else"):
        await lain.set_config("cluster", dict(config.value), revision=config.revision)
    with pytest.raises(Invalid, match=r"value\.colour: Unknown field"):
        await lain.set_config("cluster", {**config.value, "colour": "red"})
    with pytest.raises(Invalid):
        await lain.set_config("cluster", {**config.value, "router_http_port": "eighty"})
    with pytest.raises(Refused):
        await lain.set_config("jwks", {})
    with pytest.raises(NotFound):
        await lain.set_config("colours", {})
    for fixed in ({"pod_network": "10.0.0.0/8"}, {"name": "another"}, {"network": "networkd"}):
        with pytest.raises(Refused, match="keeps its"):
            await lain.set_config("cluster", {**config.value, **fixed})
    view = await lain.cluster()
    assert (view.domain, view.router_http_port, view.nodes_alive) == ("lain.localhost", 8080, 1)


# --- versions and plans -----------------------------------------------------------------------------------------------


async def test_versions_newest_first_and_which_can_be_deployed(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    assert (await lain.versions("hello")).versions == ()
    for version, whole in (("3-bbb", True), ("5-aaa", True), ("9-ccc", False)):
        cluster.images.push_version("hello", version, manifest(), release=whole)
    versions = (await lain.versions("hello")).versions
    assert [(each.meta_version, each.deployable) for each in versions] == [
        ("9-ccc", False), ("5-aaa", True), ("3-bbb", True),
    ]  # fmt: skip
    plan = await lain.plan("hello")
    assert plan.meta_version == "5-aaa", "the newest that can be deployed"
    record = await done(lain, await lain.deploy("hello"))
    assert record.meta_version == "5-aaa"
    assert [each.meta_version for each in (await lain.versions("hello")).versions if each.current] == ["5-aaa"]


async def test_a_tag_that_is_not_there(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    with pytest.raises(NotFound, match="no version of hello") as none:
        await lain.deploy("hello")
    assert none.value.next.startswith("build and push")
    cluster.images.push_version("hello", "5-aaa", manifest())
    with pytest.raises(NotFound, match="no version 9-zzz") as missing:
        await lain.deploy("hello", "9-zzz")
    assert missing.value.evidence == {"newest": ["5-aaa"]}
    with pytest.raises(Invalid):
        await lain.deploy("hello", "latest")
    cluster.images.push_version("hello", "6-bbb", manifest(), release=False)
    with pytest.raises(Refused, match="no release image"):
        await lain.deploy("hello", "6-bbb")
    assert (await lain.repo("hello")).state is AppState.REGISTERED and await lain.history("hello") == ()


async def test_a_plan_changes_nothing_and_says_everything(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa", manifest(procs=TWO))
    procs = (
        "web: {cmd: serve --fast, port: 8000, memory: 64m, env: [MODE=fast], mountpoint: [/api]}\nworker.new: {cmd: work}"
        "\noneshot.migrate: {cmd: migrate}"
    )
    await cluster.release("2-bbb", manifest(procs=procs))
    before = (await cluster.store.list("/lain/")).entries
    plan = await lain.plan("hello", "2-bbb")
    kept = [entry for entry in (await cluster.store.list("/lain/")).entries if "/tokens/" not in entry.key]
    assert kept == [entry for entry in before if "/tokens/" not in entry.key]
    assert (plan.verdict, plan.release, plan.parent, plan.parent_meta_version) == (Verdict.GO, 2, 1, "1-aaa")
    actions = {change.proc: change.action for change in plan.changes}
    assert actions == {
        "migrate": ChangeAction.RUN, "web": ChangeAction.CHANGE, "new": ChangeAction.ADD, "mailer": ChangeAction.REMOVE,
    }  # fmt: skip
    web = {
        each.field: (each.old, each.new) for change in plan.changes if change.proc == "web" for each in change.changes
    }
    assert web["memory"] == ("32 MiB", "64 MiB") and web["command"] == ("serve", "serve --fast")
    assert web["version"] == ("1-aaa", "2-bbb") and web["env MODE"] == ("", "set")
    assert "hello.lain.localhost/api" in plan.routes_added
    assert all(image.startswith("hello@sha256:") for image in plan.images.values())
    again = await lain.plan("hello", "1-aaa")
    assert again.verdict is Verdict.NOTHING
    assert (await lain.deploy("hello", "1-aaa")).operation is None


async def test_what_cannot_be_deployed_is_refused_with_every_reason(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    procs = "web: {cmd: serve, port: 80, secret_files: [key], image: 'elsewhere:1'}\nportal.p: {cmd: x, port: 1, service_name: s}"
    await cluster.release("1-aaa", manifest("other", procs, head="use_services: {ledger: [ledger]}\n"))
    plan = await lain.plan("hello")
    assert plan.verdict is Verdict.REFUSED
    codes = [problem.code for problem in plan.refusals]
    assert codes == [
        "wrong_appname",
        "needs_services",
        "needs_lvault",
        "needs_portals",
        "image_missing",
        "image_missing",
    ]
    with pytest.raises(Refused) as refused:
        await lain.deploy("hello")
    assert [each["code"] for each in refused.value.evidence["refusals"]] == codes
    assert "(and 5 more)" in refused.value.message
    assert await lain.history("hello") == () and (await cluster.state.desired.list()) == ()


async def test_a_faulty_manifest_shows_every_fault(cluster: ClusterForConsole, lain: Console) -> None:
    await lain.register("hello")
    await cluster.release("1-aaa", manifest(procs="web: {cmd: serve, memory: lots, colour: red}"))
    with pytest.raises(Invalid) as invalid:
        await lain.deploy("hello")
    faults = invalid.value.evidence["faults"]
    assert {fault["path"] for fault in faults} == {"web.memory", "web.colour"}


async def test_an_app_belongs_to_one_repository(cluster: ClusterForConsole, lain: Console) -> None:
    head = "giturl: https://git.example.org/a/hello.git\n"
    await deploy(cluster, lain, "1-aaa", manifest(head=head))
    assert (await lain.repo("hello")).giturl == "https://git.example.org/a/hello"
    same = await deploy(cluster, lain, "2-bbb", manifest(head="giturl: https://git.example.org/a/hello\n"))
    assert same.outcome is Outcome.SUCCEEDED
    for version, other in (("3-ccc", "giturl: https://git.example.org/b/hello\n"), ("4-ddd", "")):
        await cluster.release(version, manifest(head=other))
        with pytest.raises(Refused, match="is bound to https://git"):
            await lain.deploy("hello", version)
    assert (await lain.app("hello")).meta_version == "2-bbb"


async def test_no_node_that_fits_says_which_filter_ruled_out_how_many(
    cluster: ClusterForConsole, lain: Console
) -> None:
    await cluster.add_node("n2")
    await lain.register("hello")
    await cluster.release("1-aaa", manifest(procs="web: {cmd: serve, port: 80, memory: 8g}"))
    with pytest.raises(Refused, match=r"of 2 nodes, memory rules out 2 \(needs 8 GiB"):
        await lain.deploy("hello")
    await cluster.release("2-bbb", manifest(procs="web: {cmd: serve, port: 80, filters: ['constraint:disk==ssd']}"))
    with pytest.raises(Refused, match="constraint:disk==ssd rules out 2"):
        await lain.deploy("hello")


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


# --- claims -----------------------------------------------------------------------------------------------------------


def mounted(app: str, *mountpoints: str) -> str:
    return manifest(app, f"web: {{cmd: serve, port: 80, mountpoint: [{', '.join(mountpoints)}]}}")


async def test_a_host_leads_to_one_app(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain, "1-aaa", mounted("hello", "www.example.org", "api.example.org/v1"))
    await lain.register("other")
    for mountpoint in ("www.example.org", "www.example.org/blog", "api.example.org/v2", "hello.lain.localhost/x"):
        await cluster.release("1-aaa", mounted("other", mountpoint), "other")
        with pytest.raises(Refused, match=r"belongs to app 'hello'"):
            await lain.deploy("other", "1-aaa")
    await lain.set_guests("hello", "www.example.org", ["other"])
    await cluster.release("2-bbb", mounted("other", "www.example.org/blog"), "other")
    assert (await done(lain, await lain.deploy("other", "2-bbb"), "other")).outcome is Outcome.SUCCEEDED
    await cluster.release("3-ccc", mounted("other", "www.example.org"), "other")
    with pytest.raises(Refused, match=r"www\.example\.org belongs to app 'hello'"):
        await lain.deploy("other", "3-ccc")
    await deploy(cluster, lain, "2-bbb", mounted("hello", "new.example.org"))
    claims = await cluster.state.all_claims()
    assert "www.example.org" in claims.hosts, "a guest is still there"
    assert "api.example.org" not in claims.hosts and "new.example.org" in claims.hosts


async def test_the_same_free_host_goes_to_one_of_two(cluster: ClusterForConsole, lain: Console) -> None:
    for app in ("one", "two"):
        await lain.register(app)
        await cluster.release("1-aaa", mounted(app, "www.example.org"), app)
    results = await asyncio.gather(lain.deploy("one"), lain.deploy("two"), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Refused)]
    accepted = [result for result in results if isinstance(result, Accepted)]
    assert len(refused) == len(accepted) == 1 and "www.example.org belongs to app" in refused[0].message
    operation = accepted[0].operation
    assert operation is not None
    await done(lain, accepted[0], operation.app)


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


# --- what is away, what is closed -------------------------------------------------------------------------------------


async def test_a_registry_that_is_down_is_named(cluster: ClusterForConsole, own_registry: ImageRegistry) -> None:
    cluster.images = own_registry
    lain = await cluster.client(await cluster.console("c9"))
    await deploy(cluster, lain, "1-aaa")
    await deploy(cluster, lain, "2-bbb")
    own_registry.stop()
    for needs_it in (lain.deploy("hello"), lain.versions("hello"), lain.rollback("hello"), lain.plan("hello")):
        with pytest.raises(Unavailable, match=f"the registry {own_registry.url} cannot be reached"):
            await needs_it
    assert (await lain.app("hello")).healthy
    assert (await done(lain, await lain.scale("hello", "web", 2))).outcome is Outcome.SUCCEEDED
    assert (await done(lain, await lain.set_env("hello", {"A": "b"}))).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("name", ["readonly", "maintenance"])
async def test_a_switch_closes_the_cluster_for_changes(cluster: ClusterForConsole, lain: Console, name: str) -> None:
    await deploy(cluster, lain)
    await cluster.state.switches.put(Switch(name, True, "ops", 1.0, "moving racks"), name)

    async def closed() -> bool:
        try:
            await lain.restart("hello")
        except Unavailable as refused:
            assert refused.error_code == name and refused.why == "moving racks"
            return True
        except Conflict:
            return False
        return False

    await eventually(closed, what="the switch is seen")
    for change in (lain.register("x"), lain.deploy("hello"), lain.scale("hello", "web", 2), lain.undeploy("hello")):
        with pytest.raises(Unavailable, match="nothing is changed now"):
            await change
    assert (await lain.plan("hello")).verdict is Verdict.NOTHING
    assert (await lain.cluster()).switches == {name: "moving racks"}
    assert any(f"{name} mode" in finding.what for finding in (await lain.explain("hello")).findings)


async def test_how_the_platform_is(cluster: ClusterForConsole, lain: Console) -> None:
    told = await lain.platform()
    assert (told.daemon, told.store_trouble, told.unreadable) == ("console", "", {})
    members = await platform_look.etcd_members(cluster.store)
    assert [(member.error, member.alarms) for member in members] == [("", ())]
    assert members[0].has_leader and members[0].leads and members[0].db_bytes > 0
    assert (told.leader.id, told.leader.problem) == ("", ""), "no controller runs here"
    assert [view.node.name for view in told.nodes if view.alive is not None] == ["n1"]


async def test_explain_of_a_healthy_app(cluster: ClusterForConsole, lain: Console) -> None:
    await deploy(cluster, lain)
    explained = await lain.explain("hello")
    assert explained.headline.startswith("hello is well: release 1 runs as wanted, served at http://hello.lain")
    assert [finding.severity for finding in explained.findings] == [Severity.OK]


async def test_openapi_describes_every_route(lain: Console) -> None:
    document = await lain.http.get("/openapi.json")
    paths = document["paths"]
    assert "put" in paths["/api/v1/apps/{app}/"] and "get" in paths["/api/v1/apps/{app}/operation/events/"]
    assert "AppView" in document["components"]["schemas"]
    assert (await lain.http.get("/readyz"))["status"] == "ready"


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
