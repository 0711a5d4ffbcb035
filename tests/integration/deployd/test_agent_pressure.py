"""A pod that wrote more of the Engine's disk than it may is ended and made anew without it; its neighbour and its volumes stay."""

from __future__ import annotations

from pathlib import Path

from lain_deployd.agent.main import IN_CONTAINER
from lain_deployd.agent.pressure import disk_of
from lain_shared.model.pod import PodState
from lain_shared.testing import MemoryStore
from tests.fixtures.docker import OwnEngine
from tests.integration.deployd.agent_harness import Bench, order, template

MIB = 1024 * 1024
WRITES = "[ -e /lain/logs/again ] || { touch /lain/logs/again; dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null; }; sleep infinity"


async def test_what_a_pod_wrote_beside_its_volumes_goes_with_its_container(engine: OwnEngine, tmp_path: Path) -> None:
    bench = Bench(MemoryStore(), engine, tmp_path)
    await bench.prepare()
    share = 100 * 20 * MIB / disk_of(Path("/") if IN_CONTAINER.exists() else engine.directory).total_bytes
    async with bench.agent():
        writer = await bench.give(order(template("sh", "-c", WRITES)))
        quiet = await bench.give(order(template(), instance=2))
        before = await bench.until(writer, PodState.RUNNING, ready=True)
        beside = await bench.until(quiet, PodState.RUNNING, ready=True)
        assert engine.docker("exec", str(writer), "stat", "-c", "%s", "/big").strip() == str(40 * MIB)
    async with bench.agent(pod_disk_percent=share):
        after = await bench.until(writer, PodState.RUNNING, ready=True, restarts=1, seconds=30)
        assert after.container_id != before.container_id and after.address == before.address
        assert after.evidence is not None and after.evidence.reason == "disk_full" and "40 MiB" in after.evidence.text
        assert "big" not in engine.docker("exec", str(writer), "ls", "/").split()
        assert "again" in engine.docker("exec", str(writer), "ls", "/lain/logs").split(), "its volumes stay"
        untouched = await bench.see(quiet)
        assert untouched is not None
        assert (untouched.container_id, untouched.restarts) == (beside.container_id, 0)
