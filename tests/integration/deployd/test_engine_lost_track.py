"""An Engine that died while it started a container: what it knows nothing of afterwards is ended, and the container starts."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent.engine import ContainerSpec, ContainerState, Engine, Limits, TracesLeft
from lain_shared.testing import eventually
from tests.fixtures.docker import OwnEngine

SPEC = ContainerSpec(
    name="one", image="tiny:1", labels={}, limits=Limits(16 * 1024 * 1024), command=("sleep", "infinity"), stop_timeout_seconds=1
)  # fmt: skip
NEVER = "0001-01-01T00:00:00Z"


def containerd_of(engine: OwnEngine) -> str:
    return str(engine.directory / "exec" / "containerd" / "containerd.sock")


def pid_of(engine: OwnEngine, container: str) -> int:
    """The container's first process, in the Engine's process namespace."""
    return int(engine.docker("inspect", "--format", "{{.State.Pid}}", container))


def lives(engine: OwnEngine, pid: int) -> bool:
    """Whether a process of that number in the Engine's process namespace is alive."""
    inner = Path(f"/proc/{engine._inner_pid()}/root/proc/{pid}/stat")
    try:
        return inner.read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def lose_track(engine: OwnEngine, container: str) -> None:
    """As if the Engine had died between starting the process and noting that it did."""
    engine.stop_daemon()
    file = engine.directory / "data" / "containers" / container / "config.v2.json"
    document = json.loads(file.read_text())
    document["State"].update(Running=False, Pid=0, StartedAt=NEVER, FinishedAt=NEVER)
    file.write_text(json.dumps(document))
    engine.start_daemon()


async def state(engine: Engine, container: str) -> ContainerState | None:
    found = await engine.container(container)
    return found.state if found is not None else None


async def test_a_process_the_engine_knows_nothing_of_ends_before_the_container_starts(fresh_engine: OwnEngine) -> None:
    async with DockerEngine.connect(str(fresh_engine.socket), containerd=containerd_of(fresh_engine)) as engine:
        made = await engine.create(SPEC)
        await engine.start(made)
        lost = pid_of(fresh_engine, made)
        lose_track(fresh_engine, made)
        assert await state(engine, made) is ContainerState.CREATED
        assert lives(fresh_engine, lost)
        await engine.start(made)
        assert await state(engine, made) is ContainerState.RUNNING
        assert not lives(fresh_engine, lost)
        now = pid_of(fresh_engine, made)
        await engine.start(made)
        assert pid_of(fresh_engine, made) == now, "one that runs is let alone"
        await engine.stop(made, 1)
        await engine.start(made)
        assert await state(engine, made) is ContainerState.RUNNING


async def test_a_process_the_engine_knows_nothing_of_goes_with_its_container(fresh_engine: OwnEngine) -> None:
    async with DockerEngine.connect(str(fresh_engine.socket), containerd=containerd_of(fresh_engine)) as engine:
        made = await engine.create(SPEC)
        await engine.start(made)
        lost = pid_of(fresh_engine, made)
        lose_track(fresh_engine, made)
        await engine.remove(made)
        assert await engine.container(made) is None
        await eventually(lambda: not lives(fresh_engine, lost), what="its process has ended")


async def test_a_container_starts_whenever_the_engine_was_killed_while_starting_it(fresh_engine: OwnEngine) -> None:
    """Killed as soon as containerd has heard of it: nothing runs yet, and the Engine refused every start from then on."""
    tasks = fresh_engine.directory / "exec" / "containerd" / "daemon" / "io.containerd.runtime.v2.task" / "moby"
    async with DockerEngine.connect(str(fresh_engine.socket), containerd=containerd_of(fresh_engine)) as engine:
        made = await engine.create(SPEC)
        starting = asyncio.create_task(engine.start(made))
        while not ((tasks / made).exists() or starting.done()):  # noqa: ASYNC110 - a folder
            await asyncio.sleep(0)
        await asyncio.to_thread(fresh_engine.stop_daemon, signal.SIGKILL)
        await asyncio.gather(starting, return_exceptions=True)
        await asyncio.to_thread(fresh_engine.start_daemon)
        try:
            await engine.start(made)
        except TracesLeft:  # killed before containerd had more than a folder of it: another is made, as the agent does
            await engine.remove(made)
            made = await engine.create(SPEC)
            await engine.start(made)
        assert await state(engine, made) is ContainerState.RUNNING
        await engine.remove(made)
