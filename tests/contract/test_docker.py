"""One suite for the engine in memory and the real one: a fake is earned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent.engine import (
    AddressTaken,
    BadLimits,
    Container,
    ContainerNameTaken,
    ContainerSpec,
    ContainerState,
    Credentials,
    Engine,
    EngineEvent,
    EngineRefused,
    EngineUnavailable,
    Image,
    ImageAbsent,
    ImageMissing,
    Limits,
    LogChunk,
    MemoryInUse,
    Mount,
    NoSuchContainer,
    NotRunning,
    PullProgress,
    RegistryUnreachable,
)
from lain_deployd.testing import FakeEngine
from lain_shared.testing import eventually
from tests.fixtures.docker import REGISTRY_PASSWORD, REGISTRY_USER, OwnEngine, OwnRegistry

MIB = 1024 * 1024
LABEL = "lain.test"


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
async def box(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    if request.param == "fake":
        yield FakeEngine(images={"tiny:1": Image("sha256:1", ("tiny:1",), 2 * MIB)})
        return
    own: OwnEngine = request.getfixturevalue("engine")
    async with DockerEngine.connect(str(own.socket)) as engine:
        yield engine


def spec(name: str = "one", *command: str, **more: object) -> ContainerSpec:
    given = {
        "name": name, "image": "tiny:1", "labels": {LABEL: name}, "limits": Limits(16 * MIB),
        "command": command or ("sleep", "infinity"), "stop_timeout_seconds": 1, **more,
    }  # fmt: skip
    return ContainerSpec(**given)  # type: ignore[arg-type]


async def started(box: Engine, wanted: ContainerSpec) -> str:
    container = await box.create(wanted)
    await box.start(container)
    return container


async def ended(box: Engine, container: str) -> Container:
    async def look() -> Container | None:
        found = await box.container(container)
        return found if found is not None and found.state is ContainerState.EXITED else None

    return await eventually(look, what="the container ended")


async def output(box: Engine, container: str, **options: object) -> list[LogChunk]:
    async with box.logs(container, **options) as chunks:  # type: ignore[arg-type]
        return [chunk async for chunk in chunks]


async def test_a_container_may_have_so_many_processes_and_open_files(box: Engine) -> None:
    if isinstance(box, FakeEngine):
        return  # it runs nothing
    told = "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max; ulimit -n; cat /proc/self/oom_score_adj"
    made = await started(box, spec("few", "sh", "-c", told, processes=77, open_files=99))
    await ended(box, made)
    lines = b"".join(chunk.data for chunk in await output(box, made)).decode().split()
    assert lines[-2:] == ["99", "500"]
    assert lines[:-2] in (["77"], [])  # the control group is not to be seen in there on every machine


async def test_a_container_lives_from_create_to_remove(box: Engine) -> None:
    container = await box.create(spec())
    made = await box.container(container)
    assert made is not None
    assert (made.state, made.name, made.started_at, made.exit_code) == (ContainerState.CREATED, "one", None, None)
    await box.start(container)
    await box.start(container)  # already running is success
    running = await box.container("one")
    assert running is not None and running.id == container and running.state is ContainerState.RUNNING
    assert running.started_at is not None and abs(running.started_at - time.time()) < 10
    await box.stop(container, 1)
    stopped = await ended(box, container)
    assert stopped.exit_code in (137, 143)
    await box.stop(container, 1)
    await box.kill(container)
    await box.remove(container)
    await box.remove(container)  # gone is success
    await box.stop(container, 1)
    await box.kill(container)
    assert await box.container(container) is None
    with pytest.raises(NoSuchContainer):
        await box.start(container)


async def test_containers_are_found_by_label_running_or_not(box: Engine) -> None:
    await box.create(spec("aa"))
    b = await started(box, spec("bb"))
    await box.create(spec("cc", labels={"other": "x"}))
    assert {found.name for found in await box.containers({LABEL: ""})} == {"aa", "bb"}
    assert [found.id for found in await box.containers({LABEL: "bb"})] == [b]


async def test_a_glance_shows_everybodys_containers(box: Engine) -> None:
    await started(box, spec("aa"))
    await box.create(spec("bb", labels={"other": "x"}))
    ends = await started(box, spec("cc", "sh", "-c", "exit 3"))
    await ended(box, ends)
    seen = {one.name: one for one in await box.glance()}
    assert (seen["aa"].state, seen["aa"].exit_code) == (ContainerState.RUNNING, None)
    assert (seen["bb"].state, seen["bb"].labels["other"]) == (ContainerState.CREATED, "x")
    assert (seen["cc"].state, seen["cc"].exit_code, seen["cc"].labels[LABEL]) == (ContainerState.EXITED, 3, "cc")
    assert all(one.addresses for one in seen.values())


async def test_how_a_process_ended_is_told(box: Engine) -> None:
    before = time.time() - 2
    container = await started(box, spec("one", "sh", "-c", "echo bye; echo alas >&2; exit 3"))
    found = await ended(box, container)
    assert (found.exit_code, found.oom_killed) == (3, False)
    assert found.finished_at is not None and before < found.finished_at < time.time() + 2
    said = await output(box, container)
    assert sorted((chunk.stream, chunk.data) for chunk in said) == [(1, b"bye\n"), (2, b"alas\n")]


async def test_it_starts_again_with_the_same_id(box: Engine) -> None:
    container = await started(box, spec("one", "sh", "-c", "echo again; exit 1"))
    await ended(box, container)
    await box.start(container)
    await ended(box, container)
    assert b"".join(chunk.data for chunk in await output(box, container)) == b"again\nagain\n"
    assert b"".join(chunk.data for chunk in await output(box, container, tail=1)) == b"again\n"


async def test_a_taken_name_and_a_missing_image_are_told_apart(box: Engine) -> None:
    await box.create(spec())
    with pytest.raises(ContainerNameTaken):
        await box.create(spec())
    with pytest.raises(ImageAbsent):
        await box.create(spec("two", image="nobody/nothing:0"))


async def test_a_program_that_is_not_there_fails_the_start_and_says_so(box: Engine) -> None:
    container = await box.create(spec("one", "/nowhere/at/all"))
    with pytest.raises(EngineRefused) as failed:
        await box.start(container)
    assert "/nowhere/at/all" in failed.value.why
    found = await box.container(container)
    assert found is not None and found.state is ContainerState.CREATED and "/nowhere" in found.error


async def test_an_address_belongs_to_one_running_container(box: Engine) -> None:
    await box.ensure_network("lain", "172.20.5.0/24", "lain0")
    await box.ensure_network("lain", "172.20.5.0/24", "lain0")
    first = await started(box, spec("aa", network="lain", address="172.20.5.9"))
    found = await box.container(first)
    assert found is not None and found.address == "172.20.5.9"
    second = await box.create(spec("bb", network="lain", address="172.20.5.9"))
    with pytest.raises(AddressTaken):
        await box.start(second)
    await box.kill(first)
    stopped = await ended(box, first)
    assert stopped.address == "172.20.5.9"  # it keeps it
    with pytest.raises(EngineRefused):
        await box.ensure_network("lain", "172.20.6.0/24", "lain0")


async def test_limits_change_while_it_runs(box: Engine) -> None:
    container = await started(box, spec(limits=Limits(16 * MIB, cpu_quota_percent=25.0)))
    found = await box.container(container)
    assert found is not None and found.limits == Limits(16 * MIB, 25.0)
    for wanted in (
        Limits(32 * MIB, 12.5),
        Limits(24 * MIB),
        Limits(40 * MIB, 50.0, 20 * MIB),
        Limits(40 * MIB, 50.0, 20 * MIB, 128),
    ):
        await box.update(container, wanted)
        found = await box.container(container)
        assert found is not None and found.limits == wanted and found.state is ContainerState.RUNNING
    with pytest.raises(BadLimits):
        await box.update(container, Limits(1 * MIB))
    used = await box.memory_used(container)
    assert used is not None and 0 < used < 40 * MIB


async def test_memory_in_use_is_not_taken(box: Engine) -> None:
    """Neither by killing for it nor by half of a change."""
    hold = "dd if=/dev/zero of=/dev/shm/x bs=1M count=24; echo held; sleep 60"
    container = await started(box, spec("one", "sh", "-c", hold, limits=Limits(64 * MIB)))
    if isinstance(box, FakeEngine):
        box.used_bytes = 24 * MIB
    else:
        async with box.logs(container, follow=True) as chunks:
            async for chunk in chunks:
                if b"held" in chunk.data:
                    break
    with pytest.raises(MemoryInUse) as refused:
        await box.update(container, Limits(16 * MIB, 50.0))
    assert 24 * MIB <= refused.value.used_bytes < 48 * MIB
    found = await box.container(container)
    assert found is not None and found.limits == Limits(64 * MIB) and found.state is ContainerState.RUNNING
    await box.update(container, Limits(48 * MIB, 50.0))


async def test_a_stopped_container_uses_no_memory(box: Engine) -> None:
    container = await box.create(spec())
    assert await box.memory_used(container) is None


async def test_logs_are_followed_until_it_ends(box: Engine) -> None:
    container = await started(box, spec("one", "sh", "-c", "echo first; sleep 60"))
    async with box.logs(container, follow=True) as chunks:
        assert (await anext(chunks)).data == b"first\n"
        await box.kill(container)
        assert [chunk async for chunk in chunks] == []


async def test_a_stream_left_early_costs_nothing(box: Engine) -> None:
    container = await started(box, spec("one", "sh", "-c", "echo first; sleep 60"))
    for _ in range(120):
        async with box.logs(container, follow=True) as chunks:
            await anext(chunks)
    assert await box.container(container) is not None


async def test_events_tell_what_happened_and_can_be_resumed(box: Engine) -> None:
    seen: list[EngineEvent] = []
    began_nano = int((time.time() - 1) * 1e9)
    async with box.events() as events:
        container = await started(box, spec())
        await box.kill(container)
        async with asyncio.timeout(10):
            async for event in events:
                assert event.labels.get(LABEL) == "one"
                seen.append(event)
                if event.action == "die":
                    break
    actions = [event.action for event in seen]
    assert [action for action in actions if action in ("create", "start", "die")] == ["create", "start", "die"]
    remembered = await box.recent_events(began_nano)
    assert {event.identity for event in seen} <= {event.identity for event in remembered}
    async with box.events(seen[-1].at_nano) as again, asyncio.timeout(10):
        assert (await anext(again)).identity == seen[-1].identity


async def test_a_command_runs_inside(box: Engine) -> None:
    container = await started(box, spec())
    told = await box.run(container, ("echo", "hello"), 10.0)
    assert (told.exit_code, told.output) == (0, "hello")
    assert (await box.run(container, ("sh", "-c", "exit 7"), 10.0)).exit_code == 7
    with pytest.raises(TimeoutError):
        await box.run(container, ("sleep", "30"), 0.3)
    await box.kill(container)
    await ended(box, container)
    with pytest.raises(NotRunning):
        await box.run(container, ("true",), 10.0)


async def test_a_command_takes_input_and_ends_with_it(box: Engine) -> None:
    container = await started(box, spec())
    async with box.exec(container, ("cat",), terminal=False) as session:
        await session.write(b"some words")
        first = await session.read()
        assert first == LogChunk(1, b"some words")
        await session.close_input()
        assert await session.read() is None
        assert await session.exit_code() == 0


async def test_a_terminal_can_be_resized(box: Engine) -> None:
    container = await started(box, spec())
    async with box.exec(container, ("cat",), terminal=True) as session:
        await session.resize(100, 40)


async def test_a_file_is_read_from_a_container_that_never_ran(box: Engine) -> None:
    container = await box.create(spec())
    passwd = await box.read_file(container, "/etc/passwd")
    assert passwd is not None and b"app:x:1234:2345" in passwd
    assert await box.read_file(container, "/etc/nothing") is None


async def test_an_unused_image_goes_a_used_one_stays(box: Engine) -> None:
    image = await box.image("tiny:1")
    assert image is not None and image.size_bytes > 0 and "tiny:1" in image.references
    assert await box.image("nobody/nothing:0") is None
    await box.create(spec())
    assert not await box.remove_image("tiny:1")
    assert await box.remove_image("nobody/nothing:0")
    assert await box.image("tiny:1") is not None


# --- what only the real Engine shows ------------------------------------------------------------------------------------


async def test_an_image_is_pulled_by_digest_with_credentials(engine: OwnEngine, registry: OwnRegistry) -> None:
    reference = f"{registry.host}/{registry.push('tiny:1', 'pull-me')}"
    progress: list[PullProgress] = []
    credentials = Credentials(REGISTRY_USER, REGISTRY_PASSWORD)
    async with DockerEngine.connect(str(engine.socket)) as box:
        with pytest.raises(RegistryUnreachable):
            await box.pull(reference, Credentials(REGISTRY_USER, "wrong"), progress.append)
        with pytest.raises(ImageMissing):
            await box.pull(reference[:-4] + "0000", credentials, progress.append)
        with pytest.raises(ImageMissing):
            await box.pull(reference.replace("pull-me", "pull-nobody"), credentials, progress.append)
        with pytest.raises(RegistryUnreachable):
            await box.pull(reference.replace(str(registry.port), "1"), credentials, progress.append)
        await box.pull(reference, credentials, progress.append)
        assert await box.image(reference) is not None
        assert await box.remove_image(reference)
        assert await box.image(reference) is None


async def test_what_a_pod_may_not_do(engine: OwnEngine) -> None:
    async with DockerEngine.connect(str(engine.socket)) as box:
        container = await started(box, spec(read_only=True, mounts=(Mount(str(engine.directory), "/vol", True),)))

        async def inside(script: str) -> tuple[int, str]:
            told = await box.run(container, ("sh", "-c", script), 10.0)
            return told.exit_code, told.output

        assert (await inside("touch /bin/x"))[0] != 0
        assert (await inside("touch /tmp/x"))[0] == 0
        assert (await inside("touch /vol/x"))[0] != 0
        status = (await inside("cat /proc/self/status"))[1]
        granted = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
        assert granted & (1 << 13) == 0, "NET_RAW"
        assert granted & (1 << 21) == 0, "SYS_ADMIN"
        assert "NoNewPrivs:\t1" in status


async def test_an_engine_that_is_away_is_unavailable(fresh_engine: OwnEngine) -> None:
    async with DockerEngine.connect(str(fresh_engine.socket)) as box:
        container = await started(box, spec())
        async with box.events() as events:
            fresh_engine.stop_daemon()
            with pytest.raises(EngineUnavailable):
                await box.containers({LABEL: ""})
            with pytest.raises((EngineUnavailable, StopAsyncIteration)):
                async with asyncio.timeout(10):
                    while True:
                        await anext(events)
        fresh_engine.start_daemon()
        found = await box.container(container)
        assert found is not None and found.state is ContainerState.RUNNING  # live-restore
        assert await box.recent_events(1) == ()  # and it remembers no event of its former self
