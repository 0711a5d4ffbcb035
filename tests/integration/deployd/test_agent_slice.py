"""The thinnest slice: an assignment becomes a container that answers, and its absence makes it go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lain_shared.model.pod import PodState, ProcType
from lain_shared.store import Store
from lain_shared.testing import eventually
from tests.fixtures.docker import OwnEngine
from tests.integration.deployd.agent_harness import NODE, Bench, order, template


@pytest.fixture
async def bench(store: Store, engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(store, engine, tmp_path)
    await made.prepare()
    yield made


async def test_an_assignment_becomes_a_ready_pod_and_goes_again(bench: Bench) -> None:
    async with bench.agent():
        wanted = order(template("httpd", "-f", "-p", "8000", port=8000), type=ProcType.WEB)
        pod = await bench.give(wanted)
        seen = await bench.until(pod, PodState.RUNNING, ready=True)
        assert seen.address.startswith(bench.engine.pod_network.rsplit(".", 2)[0] + ".")
        assert bench.containers() == [str(pod)]
        alive = await bench.alive.get(NODE)
        assert alive is not None and alive.value.engine_id
        state = await eventually(lambda: bench.states.get(NODE), what="nodes-state")
        assert state is not None and state.value.problems == () and state.value.cpus >= 1
        await bench.give(replace(wanted, run=False))
        await eventually(lambda: bench.gone(pod), what="the pod is gone")
        assert bench.containers() == []
