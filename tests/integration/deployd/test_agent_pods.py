"""A pod's life under a real agent on a real Engine: crashes, probes, limits, volumes, oneshots, and what is not ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lain_shared import keys
from lain_shared.model.pod import Evidence, PodState, Probe, ProbeKind, ProcType, Volume
from lain_shared.model.volume import VolumeDeletion
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually
from tests.fixtures.docker import OwnEngine, import_image, tiny_image
from tests.integration.deployd.agent_harness import MIB, NODE, Bench, order, template


@pytest.fixture
async def bench(engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(MemoryStore(), engine, tmp_path)
    await made.prepare()
    yield made


def inspect(bench: Bench, name: str, what: str) -> str:
    return bench.engine.docker("inspect", name, "--format", what).strip()


async def test_what_a_pod_is_given(bench: Bench) -> None:
    async with bench.agent():
        wanted = order(
            template(cpu=4, read_only=True, env={"A": "1", "LAIN_NODE": "forged"}, labels={"team": "x"}),
            type=ProcType.WEB,
        )
        pod = await bench.give(wanted)
        seen = await bench.until(pod, PodState.RUNNING, ready=True)
        env = inspect(bench, str(pod), "{{json .Config.Env}}")
        for text in (
            "A=1",
            "LAIN_INSTANCE_NO=1",
            "LAIN_NODE=n1",
            "DEPLOYD_POD_NAME=hello.web.web",
            "DEPLOYD_POD_NAMESPACE=hello",
        ):
            assert f'"{text}"' in env
        assert inspect(bench, str(pod), "{{.Config.Hostname}}") == "web-1"
        assert (
            inspect(bench, str(pod), '{{index .Config.Labels "lain.pod"}} {{index .Config.Labels "team"}}')
            == f"{pod} x"
        )
        host = inspect(
            bench, str(pod), "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.RestartPolicy.Name}}"
        )
        assert host == f"{16 * MIB} {16 * MIB} no"
        assert inspect(bench, str(pod), "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.PidsLimit}}") == "true 2048"
        cpus = int(bench.engine.docker("info", "--format", "{{.NCPU}}"))
        assert int(inspect(bench, str(pod), "{{.HostConfig.CpuQuota}}")) == 4 / 8 * cpus / 2 * 100_000
        assert (seen.cpu, seen.memory_bytes) == (4, 16 * MIB)


async def test_a_crash_is_answered_at_once_then_with_patience(bench: Bench) -> None:
    async with bench.agent():
        pod = await bench.give(order(template("sh", "-c", "echo starting; echo oh no; sleep 0.2; exit 3")))
        first = await bench.until(pod, restarts=1)
        assert isinstance(first.evidence, Evidence)
        assert (first.evidence.reason, first.evidence.exit_code) == ("exited", 3)
        assert first.evidence.last_lines[-2:] == ("starting", "oh no")
        second = await bench.until(pod, PodState.BACKOFF, restarts=2)
        assert second.retry_at is not None and second.exit_code == 3 and "code 3" in second.error
        third = await bench.until(pod, PodState.BACKOFF, restarts=3)
        assert third.retry_at is not None and third.retry_at - second.retry_at >= 1.9
        assert third.address == first.address and third.container_id == first.container_id


async def test_out_of_memory_is_named(bench: Bench) -> None:
    async with bench.agent():
        eat = "sleep 1; tail /dev/zero"
        pod = await bench.give(order(template("sh", "-c", f"exec sh -c '{eat}'", memory_bytes=8 * MIB)))
        seen = await bench.until(pod, restarts=1, seconds=20)
        assert seen.evidence is not None and seen.evidence.reason == "oom_killed"
        assert "out of memory (limit 8 MiB)" in seen.evidence.text


async def test_a_program_that_is_not_there_is_named_and_tried_again(bench: Bench) -> None:
    async with bench.agent():
        pod = await bench.give(order(template("/nowhere")))
        seen = await bench.until(pod, PodState.FAILED)
        assert "/nowhere" in seen.error and seen.retry_at is not None
        assert seen.evidence is not None and seen.evidence.reason == "engine_error"


async def test_stop_asks_first_and_then_insists(bench: Bench) -> None:
    async with bench.agent():
        polite = order(template("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done", kill_timeout_seconds=20))
        deaf = order(template("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"), instance=2)
        for wanted in (polite, deaf):
            await bench.until(await bench.give(wanted), PodState.RUNNING)
        async with asyncio.timeout(10):
            await asyncio.gather(bench.retire(polite), bench.retire(deaf))
        assert bench.containers() == []


async def test_an_assignment_taken_away_is_a_stop_but_others_are_left_alone(bench: Bench) -> None:
    bench.engine.docker("run", "-d", "--name", "somebody", "--label", "lain.pod=x", "tiny:1", "sleep", "3600")
    bench.engine.docker(
        "run",
        "-d",
        "--name",
        "other-node",
        "--label",
        "lain.pod=a.b-1.g2",
        "--label",
        "lain.node=n2",
        "tiny:1",
        "sleep",
        "3600",
    )
    async with bench.agent():
        gone, stays = order(template()), order(template(), instance=2)
        for wanted in (gone, stays):
            await bench.until(await bench.give(wanted), PodState.RUNNING)
        await bench.assign.delete(NODE, str(gone.pod))
        await eventually(lambda: bench.gone(gone.pod), what="it is gone")
        assert sorted(bench.containers()) == sorted([str(stays.pod), "somebody", "other-node"])


async def test_a_container_removed_by_hand_comes_back_with_its_address(bench: Bench) -> None:
    async with bench.agent():
        pod = await bench.give(order(template()))
        before = await bench.until(pod, PodState.RUNNING, ready=True)
        bench.engine.docker("rm", "-f", str(pod))

        async def another() -> bool:
            seen = await bench.see(pod)
            return seen is not None and seen.state is PodState.RUNNING and seen.container_id != before.container_id

        await eventually(another, what="another container")
        after = await bench.see(pod)
        assert after is not None and after.address == before.address


async def test_readiness_over_http_follows_the_app(bench: Bench) -> None:
    async with bench.agent():
        probe = Probe(ProbeKind.HTTP, port=8000, path="/ok", interval_seconds=0.2, failures=2)
        script = "mkdir /tmp/www; cd /tmp/www; httpd -f -p 8000"
        pod = await bench.give(order(template("sh", "-c", script, readiness=probe, port=8000), type=ProcType.WEB))
        await bench.until(pod, PodState.RUNNING, ready=False)
        unready = await eventually(
            lambda: _with_evidence(bench, pod), 20.0, what="evidence of why it does not get ready"
        )
        assert unready.reason == "probe_failed" and "/ok answered 404" in unready.probe
        bench.engine.docker("exec", str(pod), "touch", "/tmp/www/ok")
        await bench.until(pod, ready=True, restarts=0)
        bench.engine.docker("exec", str(pod), "rm", "/tmp/www/ok")
        await bench.until(pod, ready=False, restarts=0)
        bench.engine.docker("exec", str(pod), "touch", "/tmp/www/ok")
        await bench.until(pod, ready=True, restarts=0)


async def _with_evidence(bench: Bench, pod: object) -> Evidence | None:
    seen = await bench.see(pod)  # type: ignore[arg-type]
    return None if seen is None else seen.evidence


async def test_liveness_restarts_what_hangs_and_startup_waits(bench: Bench) -> None:
    async with bench.agent():
        live = Probe(ProbeKind.EXEC, command=("test", "-e", "/tmp/alive"), interval_seconds=0.3, failures=2)
        begun = Probe(ProbeKind.EXEC, command=("test", "-e", "/tmp/begun"), interval_seconds=0.2, failures=50)
        script = "rm -f /tmp/alive; touch /tmp/alive; sleep 0.6; touch /tmp/begun; sleep 3600"
        pod = await bench.give(order(template("sh", "-c", script, liveness=live, startup=begun, readiness=begun)))
        seen = await bench.until(pod, ready=True)
        assert seen.started_at is not None and seen.ready_at is not None and seen.ready_at - seen.started_at > 0.5
        bench.engine.docker("exec", str(pod), "rm", "/tmp/alive")
        seen = await bench.until(pod, restarts=1)
        assert seen.evidence is not None and seen.evidence.reason == "probe_failed"
        assert "liveness probe failed 2 times" in seen.evidence.probe
        await bench.until(pod, ready=True, restarts=1)


async def test_limits_change_in_place_and_memory_in_use_is_not_taken(bench: Bench) -> None:
    async with bench.agent():
        # 24 MiB of a tmpfs count as this container's memory
        hold = "dd if=/dev/zero of=/dev/shm/x bs=1M count=24; sleep 3600"
        wanted = order(template("sh", "-c", hold, memory_bytes=64 * MIB))
        pod = await bench.give(wanted)
        before = await bench.until(pod, PodState.RUNNING, ready=True)
        await bench.give(replace(wanted, template=replace(wanted.template, memory_bytes=48 * MIB, cpu=2)))
        after = await bench.until(pod, memory_bytes=48 * MIB, cpu=2)
        assert (after.container_id, after.started_at, after.restarts) == (before.container_id, before.started_at, 0)
        await bench.give(replace(wanted, template=replace(wanted.template, memory_bytes=16 * MIB, cpu=2)))

        async def refused() -> str:
            seen = await bench.see(pod)
            return seen.error if seen is not None else ""

        text = await eventually(refused, what="the refusal")
        assert text.startswith("memory stays at 48 MiB: 2") and "16 MiB wanted" in text
        seen = await bench.until(pod, PodState.RUNNING, ready=True, memory_bytes=48 * MIB)
        assert seen.evidence is not None and seen.evidence.reason == "limits_refused" and seen.evidence.text == text
        await bench.give(replace(wanted, template=replace(wanted.template, memory_bytes=48 * MIB, cpu=2)))
        seen = await bench.until(pod, PodState.RUNNING, ready=True, memory_bytes=48 * MIB, error="")
        assert seen.evidence is None, "it has what is asked for"


async def test_a_oneshot_runs_once_and_says_how_it_ended(bench: Bench) -> None:
    async with bench.agent():
        good = await bench.give(order(template("sh", "-c", "echo done"), type=ProcType.ONESHOT))
        bad = await bench.give(order(template("sh", "-c", "echo no; exit 9"), proc="migrate", type=ProcType.ONESHOT))
        seen = await bench.until(good, PodState.EXITED)
        assert (seen.exit_code, seen.restarts, seen.ready) == (0, 0, False)
        seen = await bench.until(bad, PodState.EXITED, seconds=25)
        assert (seen.exit_code, seen.restarts) == (9, 4)
        assert seen.evidence is not None and seen.evidence.last_lines[-1] == "no"


async def test_a_volume_outlives_its_pod_and_belongs_to_whom_the_image_runs_as(bench: Bench) -> None:
    bench.engine.images["named"] = import_image(bench.engine, "named:1", tiny_image(), "USER app")
    async with bench.agent():
        script = "echo $(id -u) >> /data/x; cat /data/x; touch /lain/logs/app.log; sleep 3600"
        for count, given in enumerate(({"image": "named:1"}, {"image": "named:1"}), 1):
            wanted = order(template("sh", "-c", script, volumes=(Volume("/data"),), **given))
            await bench.until(await bench.give(wanted), PodState.RUNNING, ready=True)
            directory = bench.directory / "volumes" / "hello" / "web" / "1"
            assert (directory / "data/x").read_text() == "1234\n" * count
            assert (directory / "data").stat().st_uid == 1234
            assert (directory / "lain%2Flogs/app.log").stat().st_uid == 1234
            await bench.retire(wanted)
        numeric = order(template("sh", "-c", script, volumes=(Volume("/data"),), user="4321:77"), instance=2)
        await bench.until(await bench.give(numeric), PodState.RUNNING, ready=True)
        state = (bench.directory / "volumes/hello/web/2/data").stat()
        assert (state.st_uid, state.st_gid) == (4321, 77)
        found = await eventually(lambda: _volumes(bench), what="volumes of the node")
        assert found == ("hello.web-1", "hello.web-2")


async def _volumes(bench: Bench) -> tuple[str, ...]:
    stored = await bench.states.get(NODE)
    return stored.value.volumes if stored is not None and len(stored.value.volumes) == 2 else ()


async def test_data_that_is_gone_is_not_replaced_by_nothing(bench: Bench) -> None:
    wanted = order(template("sh", "-c", "touch /data/x; sleep 3600", volumes=(Volume("/data"),)))
    async with bench.agent(resync_seconds=1.0):
        await bench.until(await bench.give(wanted), PodState.RUNNING, ready=True)
        await bench.retire(wanted)
    data = bench.directory / "volumes/hello/web/1"
    data.rename(bench.directory / "away")
    async with bench.agent():
        again = order(wanted.template)
        pod = await bench.give(again)
        seen = await bench.until(pod, PodState.FAILED)
        assert seen.evidence is not None and seen.evidence.reason == "volume_missing"
        assert str(data) in seen.error and bench.containers() == []
        (bench.directory / "away").rename(data)
        await bench.until(pod, PodState.RUNNING, ready=True, seconds=20)


async def test_volumes_of_an_undeployed_app_are_deleted_once_nothing_of_it_is_left(bench: Bench) -> None:
    """Exactly those named; what is linked from them stays; and not while a pod of the app is here."""
    orders = Records(bench.store, keys.VOLUME_DELETIONS, VolumeDeletion)
    async with bench.agent():
        running = [order(template(volumes=(Volume("/data"),)), instance=number) for number in (1, 2)]
        for wanted in running:
            await bench.until(await bench.give(wanted), PodState.RUNNING)
        await eventually(lambda: _volumes(bench), what="volumes of the node")
        root = bench.directory / "volumes"
        outside = root / "other" / "web" / "1" / "data"
        outside.mkdir(parents=True)
        (outside / "kept").touch()
        (root / "hello/web/1/data/link").symlink_to(outside)
        await orders.put(VolumeDeletion(NODE, "hello", ("hello.web-1", "other.web-1"), "ann", 1.0), NODE, "hello")
        await bench.retire(running[1])
        assert (root / "hello/web/1/data/link").exists(), "a pod of the app still runs"
        await bench.retire(running[0])
        await eventually(lambda: not (root / "hello/web/1").exists(), what="the volume is gone")
        assert (outside / "kept").exists() and (root / "hello/web/2/data").exists()

        async def listed() -> bool:
            stored = await bench.states.get(NODE)
            return stored is not None and set(stored.value.volumes) == {"hello.web-2", "other.web-1"}

        await eventually(listed, what="the node no longer lists it")
