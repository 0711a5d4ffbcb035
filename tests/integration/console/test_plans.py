"""Versions and plans: what can be deployed, what a deploy would do, and every reason why it may not."""

from __future__ import annotations

import pytest

from lain_sdk.api_types import ChangeAction, Verdict
from lain_sdk.client import Console
from lain_shared.errors import Invalid, NotFound, Refused
from lain_shared.model.app import AppState, Outcome
from tests.fixtures.console import TWO, ClusterForConsole, deploy, done, manifest


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
