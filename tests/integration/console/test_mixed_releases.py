"""A release whose procs come from several versions: each keeps its own manifest, through environment, rollback and sweeping."""

from __future__ import annotations

from lain_console.operations.driver import RELEASES_KEPT
from lain_sdk.client import Console
from lain_shared import keys
from lain_shared.model.app import Outcome
from tests.fixtures.console import ClusterForConsole, deploy, done, manifest

OLD = "web: {cmd: serve, port: 8000, env: [FROM=old]}\nworker.mailer: {cmd: mail, env: [FROM=old]}"
NEW = "web: {cmd: serve, port: 8000, env: [FROM=new]}\nworker.other: {cmd: other, env: [FROM=new]}"
MIXED = {"web": ("2-bbb", "new"), "mailer": ("1-aaa", "old")}


async def made_from(cluster: ClusterForConsole) -> dict[str, tuple[str, str]]:
    """proc → the version and the manifest's own variable of what is wanted of it now."""
    stored = await cluster.state.desired.list("hello")
    env = {each.value.proc: each.value.template.env for each in stored}
    return {proc: (each["LAIN_APP_RELEASE_VERSION"], each["FROM"]) for proc, each in env.items()}


async def mix(cluster: ClusterForConsole, lain: Console) -> None:
    """web of version 2 beside the mailer of version 1, which version 2 has not."""
    await deploy(cluster, lain, "1-aaa", manifest(procs=OLD))
    await cluster.release("2-bbb", manifest(procs=NEW))
    assert (await done(lain, await lain.deploy("hello", "2-bbb", proc="web"))).outcome is Outcome.SUCCEEDED
    assert await made_from(cluster) == MIXED


async def test_the_environment_changes_again_and_again(cluster: ClusterForConsole, lain: Console) -> None:
    await mix(cluster, lain)
    for value in ("a", "b", "c"):
        assert (await done(lain, await lain.set_env("hello", {"KEY": value}))).outcome is Outcome.SUCCEEDED
        assert await made_from(cluster) == MIXED
        env = await lain.env("hello")
        assert env.manifest == {"web": {"FROM": "new"}, "mailer": {"FROM": "old"}} and env.running == {"KEY": value}


async def test_it_is_gone_back_to_and_changed(cluster: ClusterForConsole, lain: Console) -> None:
    await mix(cluster, lain)
    await cluster.release("3-ccc", manifest(procs=NEW))
    await done(lain, await lain.deploy("hello", "3-ccc"))
    assert (await done(lain, await lain.rollback("hello", 2))).outcome is Outcome.SUCCEEDED
    assert await made_from(cluster) == MIXED
    assert (await done(lain, await lain.set_env("hello", {"KEY": "a"}))).outcome is Outcome.SUCCEEDED
    assert await made_from(cluster) == MIXED


async def test_what_a_proc_is_made_from_is_never_swept(cluster: ClusterForConsole, lain: Console) -> None:
    await mix(cluster, lain)
    for number in range(RELEASES_KEPT + 2):
        assert (await done(lain, await lain.set_env("hello", {"KEY": str(number)}))).outcome is Outcome.SUCCEEDED
    kept = [each.number for each in await lain.releases("hello")]
    assert kept == [*range(24, 4, -1), 1], "release 1 made the mailer; the others made nothing that is kept"
    assert await made_from(cluster) == MIXED
    newest = await cluster.state.releases.get("hello", 24)
    assert newest is not None and newest.value.origins == {"mailer": 1}
    assert await cluster.store.get(keys.RELEASES.key("hello", 2)) is None
