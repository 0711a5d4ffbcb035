"""The console when something is away: a replica dies, etcd stops, a node does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lain_sdk.client import Console
from lain_shared.errors import LainError, Unauthenticated, Unavailable
from lain_shared.etcd import EtcdStore
from lain_shared.model.app import OperationPhase, Outcome
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, cluster_on
from tests.fixtures.controller import Fate
from tests.fixtures.etcd import Cluster
from tests.fixtures.registry import ImageRegistry


@pytest.fixture
async def fragile(
    etcd_single: Cluster, image_registry: ImageRegistry, tmp_path: Path
) -> AsyncIterator[ClusterForConsole]:
    """A cluster on an etcd of this test's own."""
    async with (
        EtcdStore.connect(etcd_single.endpoints, timeout_seconds=1.0) as store,
        cluster_on(store, image_registry, tmp_path) as made,
    ):
        yield made


async def in_rollout(lain: Console) -> bool:
    operation = await lain.operation("hello")
    return operation is not None and operation.phase is OperationPhase.ROLLOUT


@pytest.mark.parametrize("orderly", [True, False], ids=["stopped", "killed"])
async def test_another_replica_takes_over_and_ends_the_deploy(cluster: ClusterForConsole, orderly: bool) -> None:
    first, heir = await cluster.console("c1"), await cluster.console("c2")
    one, two = await cluster.client(first), await cluster.client(heir)
    await one.register("hello")
    await cluster.release("1-aaa")
    cluster.controller.fates["web"] = Fate.STARTING
    accepted = await one.deploy("hello")
    assert accepted.operation is not None and accepted.operation.holder == "c1"
    await eventually(lambda: in_rollout(one), what="it rolls out")
    waiting = asyncio.create_task(two.wait("hello", accepted.operation.id))
    await (first.stop() if orderly else first.kill())
    cluster.controller.fates.clear()
    async with asyncio.timeout(15):
        record = await waiting
    assert record.outcome is Outcome.SUCCEEDED
    assert (await two.app("hello")).release == 1


async def test_etcd_away_is_said_and_outlived(fragile: ClusterForConsole, etcd_single: Cluster) -> None:
    lain = await fragile.client(await fragile.console())
    await lain.register("hello")
    await fragile.release("1-aaa")
    fragile.controller.fates["web"] = Fate.STARTING
    accepted = await lain.deploy("hello")
    assert accepted.operation is not None
    steps: list[str] = []
    waiting = asyncio.create_task(
        lain.wait("hello", accepted.operation.id, on_step=lambda step: steps.append(step.text))
    )
    await eventually(lambda: in_rollout(lain), what="it rolls out")
    etcd_single.members[0].stop()
    for needs_it in (lain.apps(), lain.app("hello"), lain.restart("hello"), lain.register("x")):
        with pytest.raises(Unavailable) as told:
            await needs_it
        names_etcd(told.value, etcd_single)
    async with Console(lain.url, token="nonsense") as nobody:
        with pytest.raises((Unauthenticated, Unavailable)):
            await nobody.apps()
    assert not waiting.done()
    etcd_single.members[0].start()
    await asyncio.to_thread(etcd_single.wait_healthy)
    fragile.controller.fates.clear()
    async with asyncio.timeout(20):
        record = await waiting
    assert record.outcome is Outcome.SUCCEEDED
    assert steps == [step.text for step in record.steps], "each step once"


def names_etcd(told: Unavailable, etcd: Cluster) -> None:
    """Which part is missing, where it should be, and what next."""
    said = f"{told.message}: {told.why}"
    assert "etcd" in said and all(endpoint in said for endpoint in etcd.endpoints), said
    assert "lainctl doctor" in told.next and told.retry_seconds


async def test_a_console_starts_without_etcd_and_lets_nobody_in(
    fragile: ClusterForConsole, etcd_single: Cluster
) -> None:
    text = await fragile.token()
    etcd_single.members[0].stop()
    console = await fragile.console("c1", ready=False)
    async with Console(console.url, token=text) as lain:
        for _ in range(2):  # at once, and when the first answer has failed to come
            with pytest.raises(Unavailable, match="tokens cannot be checked now") as told:
                await lain.apps()
            names_etcd(told.value, etcd_single)
            await eventually(lambda: "does not answer" in str(console.health.not_ready()), what="it has asked in vain")
        with pytest.raises(LainError):
            await lain.http.get("/readyz")
        assert (await lain.http.get("/healthz"))["status"] == "alive"
        etcd_single.members[0].start()
        await asyncio.to_thread(etcd_single.wait_healthy)
        await eventually(lambda: not console.health.not_ready(), what="it is ready", timeout_seconds=20)
        assert (await lain.register("hello")).owner == "ann"
