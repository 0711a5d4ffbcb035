"""The agent's smaller pure parts: container documents, volumes' owners, probe verdicts, the picture on disk, images."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_deployd.adapters import docker_json
from lain_deployd.agent.addresses import AddressBook, Past
from lain_deployd.agent.disk import Disk, Saved
from lain_deployd.agent.engine import (
    ContainerState,
    Credentials,
    EngineRefused,
    Image,
    ImageMissing,
    Limits,
    PullProgress,
)
from lain_deployd.agent.images import Images, words
from lain_deployd.agent.pods import Health, Memory, Order
from lain_deployd.agent.probes import Answer, Asker, Prober, Target, Verdict, pause
from lain_deployd.agent.spec import Place, container_of, mounts_of
from lain_deployd.agent.volumes import (
    VolumeMissing,
    VolumeUnusable,
    is_numeric,
    make,
    on_disk,
    owner_of,
    path_of,
    require,
)
from lain_deployd.testing import FakeEngine
from lain_shared.errors import Invalid
from lain_shared.model.pod import Assignment, Evidence, PodId, PodTemplate, Probe, ProbeKind, ProcType, Volume
from lain_shared.testing import eventually
from tests.fixtures.parts import running

MIB = 1024 * 1024
PLACE = Place("n1", "10.0.0.1:5000", PurePosixPath("/vol"), 4)


def assignment(**more: object) -> Assignment:
    template = PodTemplate("hello@sha256:1", port=8000, **more)  # type: ignore[arg-type]
    return Assignment("hello", "web", 2, 77, ProcType.WEB, 3, template)


# --- the container ------------------------------------------------------------------------------------------------------


def test_a_container_is_named_labelled_and_told_who_it_is() -> None:
    spec = container_of(assignment(env={"A": "b", "LAIN_INSTANCE_NO": "forged"}, cpu=8), "172.20.1.9", PLACE)
    assert (spec.name, spec.hostname, spec.image) == ("hello.web-2.g77", "web-2", "10.0.0.1:5000/hello@sha256:1")
    assert spec.labels["lain.pod"] == "hello.web-2.g77" and spec.labels["lain.node"] == "n1"
    assert spec.env["A"] == "b" and spec.env["LAIN_INSTANCE_NO"] == "2" and spec.env["LAIN_NODE"] == "n1"
    assert spec.limits == Limits(32 * MIB, 200.0, cpu_weight=1024)
    assert [(mount.source, mount.target) for mount in spec.mounts] == [("/vol/hello/web/2/lain%2Flogs", "/lain/logs")]


def test_an_apps_labels_cannot_forge_ours() -> None:
    spec = container_of(assignment(labels={"lain.pod": "other.web-1.g1", "x": "y"}), "", PLACE)
    assert spec.labels["lain.pod"] == "hello.web-2.g77" and spec.labels["x"] == "y"


def test_volumes_keep_their_place_over_generations() -> None:
    given = assignment(volumes=(Volume("/data/db"), Volume("/lain/logs")))
    assert [mount.source for mount in mounts_of(given, PurePosixPath("/vol"))] == [
        "/vol/hello/web/2/data%2Fdb",
        "/vol/hello/web/2/lain%2Flogs",
    ]


def test_hardening_is_never_left_out() -> None:
    body = docker_json.create(container_of(assignment(read_only=True), "172.20.1.9", PLACE))
    host = body["HostConfig"]
    assert host["CapDrop"] == ["ALL"] and "NET_RAW" not in host["CapAdd"] and "SYS_ADMIN" not in host["CapAdd"]
    assert host["SecurityOpt"] == ["no-new-privileges"] and host["PidsLimit"] > 0
    assert host["ReadonlyRootfs"] and "/tmp" in host["Tmpfs"]
    assert host["MemorySwap"] == host["Memory"] and host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Config"] == {"max-size": str(10 * MIB), "max-file": "3"}
    assert body["Healthcheck"] == {"Test": ["NONE"]}
    assert "Privileged" not in host and host["NetworkMode"] == "lain"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0001-01-01T00:00:00Z", None), ("", None), (None, None), ("1970-01-01T00:00:01.500000001Z", 1.5)],
)
def test_dockers_times(text: str | None, seconds: float | None) -> None:
    assert docker_json.when(text) == seconds


def test_a_network_of_the_same_name_must_be_as_ours() -> None:
    made = docker_json.network("lain", "172.20.1.0/24", "lain0", 20)
    document = {"IPAM": made["IPAM"], "Options": made["Options"]}
    assert docker_json.network_differs(document, "172.20.1.0/24") is None
    assert "172.20.2.0/24" in (docker_json.network_differs(document, "172.20.2.0/24") or "")
    assert "enable_icc" in (docker_json.network_differs({"IPAM": made["IPAM"]}, "172.20.1.0/24") or "")
    assert (
        docker_json.BRIDGE + "gateway_mode_ipv4" in docker_json.network("lain", "172.20.1.0/24", "lain0", 28)["Options"]
    )


def test_a_pull_adds_up_its_layers() -> None:
    tally = docker_json.PullTally()
    for line in (
        {"status": "Pulling fs layer", "id": "a", "progressDetail": {}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 1 * MIB, "total": 4 * MIB}},
        {"status": "Downloading", "id": "b", "progressDetail": {"current": 2 * MIB, "total": 6 * MIB}},
        {"status": "Download complete", "id": "a"},
    ):
        assert tally.take(line) is None
    assert tally.so_far == PullProgress(6 * MIB, 10 * MIB)
    assert words(tally.so_far) == "pulling 6 of 10 MB"
    assert tally.take({"errorDetail": {"message": "no"}, "error": "no"}) == "no"


def test_memory_in_use_is_without_what_the_kernel_would_give_back() -> None:
    assert docker_json.memory_used({"memory_stats": {"usage": 100, "stats": {"total_inactive_file": 30}}}) == 70
    assert docker_json.memory_used({"memory_stats": {"usage": 100, "stats": {"inactive_file": 40}}}) == 60
    assert docker_json.memory_used({"memory_stats": {}}) is None


# --- volumes ------------------------------------------------------------------------------------------------------------

PASSWD = b"root:x:0:0:root:/:/bin/sh\napp:x:1234:2345:app:/:/bin/sh\n"
GROUP = b"root:x:0:\nstaff:x:50:\n"


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("", (0, 0)), ("root", (0, 0)), ("0", (0, 0)), ("app", (1234, 2345)), ("1234", (1234, 2345)), ("99", (99, 0)),
        ("app:staff", (1234, 50)), ("app:7", (1234, 7)), ("99:7", (99, 7)), ("nobody-knows", (0, 0)),
    ],
)  # fmt: skip
def test_whom_an_image_runs_as(user: str, owner: tuple[int, int]) -> None:
    assert owner_of(user, PASSWD, GROUP) == owner


@pytest.mark.parametrize(
    ("user", "known"), [("", True), ("root", True), ("1:2", True), ("app", False), ("1:staff", False)]
)
def test_which_users_need_the_images_own_accounts(user: str, known: bool) -> None:
    assert is_numeric(user) is known


def test_logs_alone_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "a.b/web/1/lain%2Flogs").mkdir(parents=True)
    (tmp_path / "a.b/web/2/data").mkdir(parents=True)
    assert on_disk(tmp_path) == {"a.b.web-2"}
    assert path_of("a.b.web-2", tmp_path) == tmp_path / "a.b/web/2"


def test_what_an_app_wrote_in_one_volume_leads_nowhere(tmp_path: Path) -> None:
    """Release 1 links out of its volume; release 2 declares a volume at that link: it gets a directory of its own."""
    root = PurePosixPath(tmp_path)
    first = mounts_of(assignment(volumes=(Volume("/data"),)), root)
    make(first, (0, 0))
    outside = tmp_path / "outside"
    outside.mkdir()
    (Path(first[0].source) / "out").symlink_to(outside)
    second = mounts_of(assignment(volumes=(Volume("/data"), Volume("/data/out"))), root)
    make(second, (0, 0))
    for mount in second:
        assert Path(mount.source).resolve() == Path(mount.source), mount
        assert Path(mount.source).parent == tmp_path / "hello/web/2"


def test_a_link_in_the_place_of_a_volume_is_refused(tmp_path: Path) -> None:
    mounts = mounts_of(assignment(volumes=(Volume("/data"),)), PurePosixPath(tmp_path))
    Path(mounts[0].source).parent.mkdir(parents=True)
    Path(mounts[0].source).symlink_to(tmp_path)
    with pytest.raises(VolumeUnusable, match="not a directory"):
        make(mounts, (1, 1))


def test_data_that_is_known_and_gone_is_missed(tmp_path: Path) -> None:
    given = assignment(volumes=(Volume("/data"),))
    require(given, tmp_path, ())
    with pytest.raises(VolumeMissing):
        require(given, tmp_path, ["hello.web-2"])
    (tmp_path / "hello/web/2/data").mkdir(parents=True)
    require(given, tmp_path, ["hello.web-2"])
    require(assignment(), tmp_path / "elsewhere", ["hello.web-2"])


@pytest.mark.parametrize("path", ["relative", "/../etc", "/a/../../b", "/", "/a:b", "/.."])
def test_what_cannot_be_a_volume_is_refused(path: str) -> None:
    with pytest.raises(Invalid):
        mounts_of(assignment(volumes=(Volume(path),)), PurePosixPath("/vol"))


# --- probes -------------------------------------------------------------------------------------------------------------


@given(answers=st.lists(st.sampled_from([True, False, None])), successes=st.integers(1, 4), failures=st.integers(1, 4))
def test_a_verdict_turns_only_after_enough_answers_in_a_row(
    answers: list[bool | None], successes: int, failures: int
) -> None:
    probe = Probe(ProbeKind.TCP, successes=successes, failures=failures)
    verdict, row, last = Verdict(False), 0, None
    for answer in answers:
        before = verdict
        verdict = verdict.after(None if answer is None else Answer(answer, "why"), probe)
        if answer is None:
            assert verdict == before
            continue
        row = row + 1 if answer == last else 1
        last = answer
        if verdict.holds != before.holds:
            assert row >= (successes if verdict.holds else failures)
        if row >= (successes if answer else failures):
            assert verdict.holds is answer


@asynccontextmanager
async def probing(target: Target, asker: Asker | None = None) -> AsyncIterator[list[tuple[bool, str]]]:
    """What a prober tells of one pod."""
    told: list[tuple[bool, str]] = []
    prober = Prober(
        FakeEngine(), clock=time.time, on_ready=lambda _, ready, text: told.append((ready, text)), on_restart=print
    )
    prober._ask = asker or prober._ask
    async with running(prober):
        prober.follow({target.pod: target})
        yield told


async def test_a_probe_that_crashed_is_put_again() -> None:
    class Asks(Asker):
        asked = 0

        async def __call__(self, target: Target, probe: Probe) -> Answer | None:
            self.asked += 1
            if self.asked == 1:
                raise AssertionError("a fault of ours")
            return Answer(True)

    target = Target(PodId("hello", "web", 1, 1), "x", time.time(), "127.0.0.1", port=1)
    async with probing(target, Asks(FakeEngine())) as told:
        await eventually(lambda: (True, "") in told)


async def test_what_is_ready_by_having_run_waits_no_longer_though_the_clock_was_set_back() -> None:
    async with probing(Target(PodId("hello", "web", 1, 1), "x", time.time() + 3_600, "")) as told:
        await eventually(lambda: told == [(True, "")])


async def test_those_who_rest_are_woken_together_and_none_too_late() -> None:
    loop, tick = asyncio.get_running_loop(), 0.05
    slept: list[float] = []
    rounds: dict[float, set[int]] = {}
    """Tick → in which of the loop's rounds those who waited for it were woken."""
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        ticking[0] = loop.call_soon(count)

    async def rest(after: float) -> None:
        await asyncio.sleep(after)
        began = loop.time()
        await pause(6 * tick, tick)
        slept.append(loop.time() - began)
        rounds.setdefault((began + 6 * tick) // tick, set()).add(turn)

    ticking = [loop.call_soon(count)]  # counts the loop's rounds
    await asyncio.sleep(tick - loop.time() % tick)  # from one tick to the next
    await asyncio.gather(*(rest(number * tick / 50) for number in range(10)))
    ticking[0].cancel()
    assert all(max(together) - min(together) <= 1 for together in rounds.values())
    assert len(rounds) < 10
    assert all(5 * tick <= seconds for seconds in slept)


async def test_an_answer_that_is_no_http_is_quoted_in_short() -> None:
    """All of it would go into the store: for each instance, again and again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\xff" * 20_000 + b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    target = Target(
        PodId("hello", "web", 1, 1), "x", time.time(), "127.0.0.1", Probe(ProbeKind.HTTP),
        port=server.sockets[0].getsockname()[1],
    )  # fmt: skip
    async with server, probing(target) as told:
        await eventually(lambda: told)
        assert not told[0][0] and 100 < len(told[0][1]) < 600


# --- the picture on disk ------------------------------------------------------------------------------------------------


async def test_the_picture_on_disk_comes_back_as_it_was(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "state/agent.json")
    assert disk.load() is None
    saved = Saved(
        orders=(Order(assignment(volumes=(Volume("/x"),), liveness=Probe(ProbeKind.EXEC, command=("a",))), 9),),
        memory={
            "hello.web-2.g77": Memory(
                "172.20.1.2", 3, evidence=Evidence(1.0, "exited", last_lines=("x",)), refused=Limits(5)
            )
        },
        health={"hello.web-2.g77": Health(5.0, True, 6.0)},
        addresses=AddressBook("172.20.1.0/24", {"172.20.1.2": Past(free_since=3.0, removal_revision=9)}),
        volumes=("hello.web-2",),
        engine_since=4.0,
        last_event="1:die:x",
    )
    await disk.save(saved)
    assert Disk(tmp_path / "state/agent.json").load() == saved


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b'{"orders": 5}', b'{"version": 99}', b"\0" * 100, b'{"engine_id": "\xff"}',
        b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"memory": {"nonsense": {}}}',
        b'{"health": {"a.b-1.gx": {"run": 1.0}}}', b'{"addresses": {"block": "nonsense"}}',
    ],
)  # fmt: skip
async def test_a_picture_that_cannot_be_read_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "agent.json").write_bytes(text)
    disk = Disk(tmp_path / "agent.json")
    assert disk.load() is None
    await disk.save(Saved())
    assert Disk(tmp_path / "agent.json").load() == Saved()


# --- images -------------------------------------------------------------------------------------------------------------


def images(engine: FakeEngine) -> Images:
    return Images(engine, lambda: None, iter(range(1_000)).__next__)


async def test_an_image_is_brought_once_however_many_wait() -> None:
    engine = FakeEngine()
    engine.registry["r/a"] = Image("1", ("r/a",), 5)
    box = images(engine)
    told: list[str] = []
    await asyncio.gather(*(box.have("r/a", told.append) for _ in range(10)))
    assert engine.calls["pull"] == 1 and set(told) == {"pulling"} and "r/a" in box.used


class Chatty(FakeEngine):
    """Tells the progress of a pull a hundred times."""

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        for n in range(100):
            on_progress(PullProgress(n * MIB, 100 * MIB))
        await super().pull(reference, credentials, on_progress)


async def test_progress_is_told_once_a_second_at_most() -> None:
    engine = Chatty()
    engine.registry["r/a"] = Image("1", ("r/a",), 5)
    told: list[str] = []
    began = time.monotonic()
    await images(engine).have("r/a", told.append)
    assert len(told) <= 2 + (time.monotonic() - began), told


async def test_a_pull_that_fails_fails_for_all_and_is_tried_again_later() -> None:
    engine = FakeEngine()
    box = images(engine)
    results = await asyncio.gather(*(box.have("r/a", lambda _: None) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ImageMissing) for result in results)
    engine.registry["r/a"] = Image("1", ("r/a",), 5)
    assert (await box.have("r/a", lambda _: None)).id == "1"


class Slow(FakeEngine):
    """Its pulls take until ``go_on``, and some time to be given up."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on, self.given_up = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            await asyncio.sleep(0.01)
            raise
        await super().pull(reference, credentials, on_progress)


async def test_who_comes_while_a_pull_is_given_up_gets_one_of_its_own() -> None:
    engine = Slow()
    engine.registry["r/a"] = Image("1", ("r/a",), 5)
    box = images(engine)
    first = asyncio.create_task(box.have("r/a", lambda _: None))
    await engine.begun.wait()
    first.cancel()
    await engine.given_up.wait()
    engine.go_on.set()
    assert (await box.have("r/a", lambda _: None)).id == "1"
    await asyncio.wait({first})
    assert first.cancelled() and not box._searches


async def test_only_what_we_brought_and_nobody_needs_is_cleared_away_oldest_first() -> None:
    engine = FakeEngine(images={"r/before-us": Image("0", ("r/before-us",), 5)})
    box = images(engine)
    for name in ("r/a", "r/b", "r/c"):
        engine.registry[name] = Image(name, (name,), 5)
        await box.have(name, lambda _: None)
    await box.have("r/before-us", lambda _: None)
    await box.have("r/a", lambda _: None)
    room = iter([True, True, False])
    assert await box.clear(frozenset({"r/b"}), lambda: next(room)) == ("r/c", "r/a")
    assert await engine.image("r/before-us") is not None and await engine.image("r/b") is not None


class Stubborn(FakeEngine):
    """One image cannot be removed."""

    async def remove_image(self, reference: str) -> bool:
        if reference == "r/a":
            raise EngineRefused("image r/a cannot be removed", why="device or resource busy")
        return await super().remove_image(reference)


async def test_an_image_that_cannot_be_removed_keeps_no_other() -> None:
    engine = Stubborn()
    box = images(engine)
    for name in ("r/a", "r/b"):
        engine.registry[name] = Image(name, (name,), 5)
        await box.have(name, lambda _: None)
    assert await box.clear(frozenset(), lambda: True) == ("r/b",)


# --- the engine in memory -----------------------------------------------------------------------------------------------


async def test_a_fake_engine_forgets_events_over_its_restart() -> None:
    engine = FakeEngine(images={"x": Image("x", (), 1)})
    spec = container_of(assignment(), "", Place("n1", "", PurePosixPath("/v"), 1))
    with pytest.raises(EngineRefused):
        await engine.ensure_network("lain", "a", "b")
        await engine.ensure_network("lain", "c", "b")
    engine.registry[spec.image] = Image("x", (), 1)
    await engine.pull(spec.image, None, lambda _: None)
    container = await engine.create(spec)
    await engine.start(container)
    assert await engine.recent_events(1)
    engine.restart(live_restore=False)
    found = await engine.container(container)
    assert found is not None and found.state is ContainerState.EXITED and not await engine.recent_events(1)


async def test_a_tcp_probe_reaches_who_listens_and_says_who_does_not() -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    target = Target(PodId("hello", "web", 1, 1), "c", 0.0, "127.0.0.1", port=port)
    ask = Asker(FakeEngine())
    assert await ask(target, Probe(ProbeKind.TCP)) == Answer(True)
    server.close()
    await server.wait_closed()
    answer = await ask(target, Probe(ProbeKind.TCP))
    assert answer == Answer(False, f"TCP 127.0.0.1:{port}: connection refused")
