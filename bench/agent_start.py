"""What the agent costs over the bare Engine: N pods at once, from nothing to ``observed`` as running, the image already there.

Bare: ``create`` and ``start`` over the Engine's API, four at a time (more does not help). Agent: N assignments written at once to a store
in memory. Both on one Engine of its own, in turn; the ratio is of the medians. Run: ``python -m bench.agent_start [N] [rounds]``.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent import volumes
from lain_deployd.agent.spec import Place, container_of
from lain_shared.model.pod import PodState
from lain_shared.testing import MemoryStore
from tests.fixtures.docker import OwnEngine, new_engine
from tests.integration.deployd.agent_harness import NODE, Bench, order, template

TARGET = 1.15


async def bare(own: OwnEngine, count: int, directory: Path) -> float:
    """Seconds until ``count`` containers of exactly the agent's kind run."""
    network = own.docker("network", "inspect", "lain", "--format", "{{(index .IPAM.Config 0).Subnet}}").strip()
    prefix = network.rsplit(".", 1)[0]
    gate = asyncio.Semaphore(4)
    async with DockerEngine.connect(str(own.socket)) as engine:
        place = Place(NODE, "", directory, 2)  # type: ignore[arg-type]
        began = time.monotonic()

        async def one(number: int) -> None:
            wanted = order(template(), instance=number)
            async with gate:
                spec = container_of(wanted, f"{prefix}.{number + 100}", place)
                await asyncio.to_thread(volumes.make, spec.mounts, (0, 0))
                await engine.start(await engine.create(spec))

        await asyncio.gather(*(one(number) for number in range(1, count + 1)))
        return time.monotonic() - began


async def agents(own: OwnEngine, count: int, directory: Path) -> float:
    """The same through the agent, from the first assignment written."""
    bench = Bench(MemoryStore(), own, directory)
    await bench.prepare()
    async with bench.agent():
        await bench.url()
        began = time.monotonic()
        waiting = {await bench.give(order(template(), instance=number)) for number in range(1, count + 1)}
        while True:
            seen = {pod: await bench.see(pod) for pod in waiting}
            waiting -= {pod for pod, one in seen.items() if one is not None and one.state is PodState.RUNNING}
            if not waiting:
                return time.monotonic() - began
            await asyncio.sleep(0.005)


def main() -> None:
    count, rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else 5
    own = new_engine()
    seconds: dict[str, list[float]] = {"bare": [], "agent": []}
    try:
        for _ in range(rounds):
            for name, measure in (("agent", agents), ("bare", bare)):
                with tempfile.TemporaryDirectory() as directory:
                    seconds[name].append(asyncio.run(measure(own, count, Path(directory))))
                if found := own.docker("ps", "-aq").split():
                    own.docker("rm", "-f", "-v", *found)
    finally:
        own.kill()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:6} {count} pods: median {medians[name]:.2f} s  {[round(value, 2) for value in values]}")
    print(f"ratio {medians['agent'] / medians['bare']:.2f} (target {TARGET})")


if __name__ == "__main__":
    main()
