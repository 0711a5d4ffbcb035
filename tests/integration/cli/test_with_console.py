"""The command line against the real console on real etcd: both sides mean the same by every word."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lain_cli.failures import Exit
from lain_shared.model.config import Role
from lain_shared.store import Store
from lain_shared.testing import eventually
from tests.fixtures.cli import Lain, Result
from tests.fixtures.console import ClusterForConsole, cluster_on, manifest, text_is_known
from tests.fixtures.controller import Fate
from tests.fixtures.registry import ImageRegistry

Cli = Callable[..., Awaitable[Result]]
OLD, NEW = "3-bbb", "5-aaa"


@pytest.fixture
async def cluster(store: Store, image_registry: ImageRegistry, tmp_path: Path) -> AsyncIterator[ClusterForConsole]:
    """A bootstrapped cluster whose controller acts at once."""
    async with cluster_on(store, image_registry, tmp_path) as made:
        yield made


@pytest.fixture
async def cli(cluster: ClusterForConsole, lain: Lain) -> Cli:
    """``lain`` logged in as an operator, in processes of their own; hello is registered and has two versions."""
    console = await cluster.console()
    token = await cluster.token(Role.OPERATOR)
    await eventually(lambda: text_is_known(console, token), what="the token is known")
    (lain.directory / "lain.yaml").write_text(manifest())

    async def run(*words: str, stdin: str = "", environ: dict[str, str] | None = None) -> Result:
        return await lain.process(*words, stdin=stdin, environ=environ)

    done = await run("login", "-p", "local", "--console", console.url, "--token", "-", stdin=token)
    assert done.code == 0 and "as ann (operator" in done.out, done.err
    await cluster.release(OLD)
    await cluster.release(NEW)
    return run


async def good(told: Awaitable[Result]) -> Result:
    """The command succeeded."""
    done = await told
    assert done.code == 0, done.err
    return done


async def test_the_whole_life_of_an_app(cli: Cli, cluster: ClusterForConsole) -> None:
    assert "registered in local" in (await good(cli("reposit"))).out
    assert "already registered" in (await good(cli("reposit", "local"))).out
    assert [line.split()[0] for line in (await good(cli("versions"))).out.splitlines()] == ["VERSION", NEW, OLD]
    assert (await good(cli("check", "-v", OLD))).out == f"release-{OLD}: there\nmeta-{OLD}: there\n"
    plan = await good(cli("deploy", "--plan", "-v", OLD))
    assert "+ web (web): new" in plan.out and "verdict: it can start" in plan.out
    first = await good(cli("deploy", "-v", OLD))
    assert "hello is at release 1" in first.out and f"this  {OLD}" in first.out
    second = await good(cli("deploy", "local"))
    assert f"last       {OLD}" in second.out and f"this       {NEW}" in second.out
    assert "lain rollback -p local --app hello 1" in second.out
    assert "healthy" in (await good(cli("ps"))).out and "hello.lain.localhost" in (await good(cli("dashboard"))).out
    assert "release 3" in (await good(cli("rollback", "1"))).out
    assert "rollback of 1" in (await good(cli("rollback", "--list"))).out
    await good(cli("scale", "web", "-n", "3", "-m", "64M"))
    assert "scaled to 3 (manifest: 1)" in (await good(cli("ps"))).out
    await good(cli("scale", "web", "--reset"))
    await good(cli("env", "set", "MODE=fast"))
    assert "MODE" in (await good(cli("env", "show"))).out
    assert (await good(cli("env", "diff"))).out == "what is set is what runs\n"
    await good(cli("env", "unset", "MODE"))
    await good(cli("restart", "web"))
    await good(cli("stop", "web"))
    assert "stopped: 1" in (await good(cli("ps"))).out
    await good(cli("start", "web"))
    await good(cli("explain"))
    await good(cli("undeploy", "--yes"))
    kinds = [line.split()[2] for line in (await good(cli("history"))).out.splitlines()[1:]]
    assert kinds[-3:] == ["rollback", "deploy", "deploy"] and kinds[0] == "undeploy"
    assert (await cli("ps", "-o", "json")).json()["state"] == "registered"


async def test_refusals_have_their_exit_codes(
    cli: Cli, cluster: ClusterForConsole, image_registry: ImageRegistry
) -> None:
    unknown = await cli("deploy")
    assert unknown.code == Exit.FAILED and "lain reposit" in unknown.err
    await good(cli("reposit"))
    nothing = await cli("deploy", "-v", "9-zzz")
    assert nothing.code == Exit.FAILED and NEW in nothing.err and OLD in nothing.err
    await cluster.release("6-ccc", manifest(procs="web: {cmd: x, port: 80, memory: 900g}"))
    refused = await cli("deploy", "-v", "6")
    assert refused.code == Exit.REFUSED and "no node fits" in refused.err
    assert (await cli("deploy", "--plan", "-v", "6")).code == Exit.REFUSED
    cluster.controller.fates["web"] = Fate.CRASHES
    failed = await cli("deploy", "-v", OLD)
    assert failed.code == Exit.FAILED and "lain explain" in failed.err
    cluster.controller.fates.clear()
    await good(cli("deploy", "-v", OLD))
    cluster.controller.fates[f"web@{NEW}"] = Fate.CRASHES
    back = await cli("deploy", "-v", NEW)
    assert back.code == Exit.ROLLED_BACK and "release 2 serves" in back.err, back.err
    assert (await cli("cancel")).code == Exit.FAILED


async def test_a_second_operation_is_told_who_and_since_when(cli: Cli, cluster: ClusterForConsole) -> None:
    await good(cli("reposit"))
    await good(cli("deploy", "-v", OLD))
    cluster.controller.fates["web"] = Fate.STARTING
    await good(cli("deploy", "--detach"))
    busy = await cli("deploy")
    assert busy.code == Exit.BUSY and "by ann" in busy.err and "phase " in busy.err
    waiting = await cli("deploy", "--replace", "--timeout", "0.5")
    assert waiting.code == Exit.FAILED and "continues in the cluster" in waiting.err
    cluster.controller.fates.clear()
    await cli("cancel")
    await eventually(lambda: idle(cli), what="nothing runs any more")


async def idle(cli: Cli) -> bool:
    return (await cli("ps", "-o", "json")).json()["operation"] is None


async def test_tokens_decide(cli: Cli, cluster: ClusterForConsole) -> None:
    await good(cli("reposit"))
    viewer = await cluster.token(Role.VIEWER, "hello", name="eve")
    await eventually(lambda: known(cli, viewer), what="the token is known")
    denied = await cli("deploy", environ={"LAIN_TOKEN": viewer})
    assert denied.code == Exit.FAILED and "hello" in denied.err and denied.out == ""
    wrong = await cli("ps", environ={"LAIN_TOKEN": viewer[:-6] + "AAAAAA"})
    assert wrong.code == Exit.FAILED and "lain login" in wrong.err, wrong.err


async def known(cli: Cli, token: str) -> bool:
    return (await cli("ps", environ={"LAIN_TOKEN": token})).code == 0


async def test_operators_issue_and_revoke_tokens(cli: Cli, lain: Lain) -> None:
    words = ("token", "create", "ci", "--role", "maintainer", "--apps", "hello", "--expires", "30d")
    issued = await lain.process(*words, tool="lainctl")
    assert issued.code == 0 and issued.out.count(".") == 2 and issued.out.count("\n") == 1
    listed = await lain.process("token", "list", "-o", "json", tool="lainctl")
    (made,) = [one for one in listed.json() if one["name"] == "ci"]
    assert made["role"] == "maintainer" and made["apps"] == ["hello"]
    assert (await lain.process("token", "revoke", made["id"], tool="lainctl")).code == 0
    shown = await lain.process("token", "list", tool="lainctl")
    assert "revoked" in shown.out
