"""Bad neighbours beside an app under load: it is answered as before, no daemon suffers, etcd keeps its pace, the disk has room.

One kind of noise at a time, each ending by itself, each judged beside the quiet just before it in the same run. The node's data are on a
file system of their own, of a few GiB, so that what fills a disk here fills no disk of the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.__main__ import Options
from bench.report import Proof, quantile
from bench.stage import order
from bench.stage.cluster import Stage
from bench.stage.flood import flooding
from bench.stage.load import Load
from bench.stage.node import Box, Node
from bench.stage.order import Look
from bench.stage.truth import Truth
from lain_shared import conditions, keys
from lain_shared.errors import LainError
from lain_shared.model.app import Release
from lain_shared.model.node import ConditionStatus
from lain_shared.records import Records
from tests.fixtures.cluster import App, LocalCluster, isolated_cluster

DESCRIPTION = (
    "bad neighbours: an app beside them is served as before, daemons and etcd as well, and the disk keeps room"
)
REQUESTS_A_SECOND, FAST_A_SECOND = 50.0, 25.0
NOISE = ("spin", "memory", "fork", "disk", "logs", "connections")
QUIET_SECONDS = 4.0
"""How long a noisy pod waits after its start: long enough to count as deployed."""
DISK_BYTES = 5 * 2**30
HIGH_PERCENT = 85.0
WRITES_BYTES = int(3.2 * 2**30)
"""What the disk writer would write: to well above the high-water mark, and not to the end."""
CONNECTIONS = 11_000
PUT_SECONDS, LOOK_SECONDS = 0.05, 0.25
ORDER_SECONDS = 90.0
STATS = "{{.Name}} {{.CPUPerc}} {{.PIDs}}"


@dataclass(slots=True)
class Ground:
    proof: Proof
    there: Stage
    node: Node
    truth: Truth
    hello: App
    noisy: App
    disk: Path | None
    """Where the node's file system can be looked at from outside."""


@dataclass(slots=True)
class Watching:
    """What is measured while a block runs. ``puts``, and ``syncs`` that have only the disk to wait for: milliseconds; ``disk``: percent in
    use, at most."""

    began: float = field(default_factory=time.time)
    ended: float = 0.0
    puts: list[float] = field(default_factory=list)
    put_failures: int = 0
    syncs: list[float] = field(default_factory=list)
    disk: float = 0.0


def run(proof: Proof, options: Options) -> None:
    seconds = 8.0 if options.quick else 30.0
    with (
        small_disk(proof) as disk,
        cluster_on(disk) as cluster,
        tempfile.TemporaryDirectory(prefix="lain-bench-") as folder,
    ):
        there = Stage(cluster, Path(folder))
        with Node.of(cluster.container) as node, Truth.of(cluster, node) as truth:
            hello, noisy, past = there.app("slow", "hello"), there.app("noisy", "noisy"), there.app("noisy", "past")
            ground = Ground(proof, there, node, truth, hello, noisy, disk)
            hello.ship()
            hello.commit("the release that runs; the one before is kept")
            hello.ship()
            noisy.ship()
            past.ship()
            past.undeploy()
            load, fast = (
                Load.running(80, [hello.host], rate=rate, path=path, address=truth.address)
                for rate, path in ((REQUESTS_A_SECOND, "/"), (FAST_A_SECOND, "/fast"))
            )
            with load as hellos, fast as fasts:
                for kind in NOISE:
                    one_kind(ground, kind, seconds, hellos, fasts)
                if disk is not None:
                    above_the_mark(ground, disk, fasts)


def one_kind(ground: Ground, kind: str, seconds: float, hellos: Load, fasts: Load) -> None:
    proof = ground.proof
    before = in_order(ground)
    with watching(ground) as alone:
        time.sleep(seconds)
    with noise(ground, kind, seconds):
        with watching(ground) as beside:
            time.sleep(seconds)
        busiest = ground.node.sh(f"docker stats --no-stream --format '{STATS}' | sort -k2 -rn | head -4")
        proof.say(f"{kind}: {'; '.join(busiest.splitlines())}")
    after = in_order(ground, restarts=True)
    case = proof.case(kind, unit="ms")
    quiet, loud = hellos.window(alone.began, alone.ended), hellos.window(beside.began, beside.ended)
    case.add("alone", *(one.milliseconds for one in quiet.samples))
    case.add("lain", *(one.milliseconds for one in loud.samples))
    case.target("p99 by p99 alone", loud.milliseconds(0.99) / quiet.milliseconds(0.99), at_most=2.0)
    case.target(f"failed of {loud.requests} requests", len(loud.failures), at_most=0)
    case.target("requests", loud.requests, at_least=REQUESTS_A_SECOND * seconds / 2)
    for text in loud.named(5):
        case.note(text)
    fast_quiet, fast_loud = fasts.window(alone.began, alone.ended), fasts.window(beside.began, beside.ended)
    case.target(f"failed of {fast_loud.requests} answered at once", len(fast_loud.failures), at_most=0)
    case.target("requests answered at once", fast_loud.requests, at_least=FAST_A_SECOND * seconds / 2)
    case.note(
        f"answered at once: p99 {fast_loud.milliseconds(0.99):.1f} ms, alone {fast_quiet.milliseconds(0.99):.1f} ms"
    )
    case.note(f"busiest meanwhile: {'; '.join(busiest.splitlines())}")  # that there was any noise
    puts = proof.case(f"{kind}: etcd put", unit="ms")
    puts.add("alone", *alone.puts)
    puts.add("lain", *beside.puts)
    puts.add("floor", *beside.syncs)
    puts.target("etcd put p99, ms", quantile(beside.puts, 0.99), at_most=50.0)
    puts.target("etcd puts that failed", beside.put_failures, at_most=0)
    puts.note(f"floor: a write and one fdatasync on the same disk, p99 {quantile(beside.syncs, 0.99):.1f} ms")
    restarted = [name for name, box in before.parts.items() if after.parts[name].run != box.run]
    moved = [pod for pod, box in before.pods.items() if pod.startswith("hello.") and _moved(box, after.pods.get(pod))]
    case.target("daemons restarted", len(restarted), at_most=0)
    case.target("pods of the app restarted", len(moved), at_most=0)
    for text in (*restarted, *moved):
        case.note(f"restarted: {text}")
    if ground.disk is not None:
        case.target("disk in use at most, percent", beside.disk, at_most=HIGH_PERCENT)
    gone = kept_images(ground, after) - on_node(ground)
    case.target("images of kept releases that are gone", len(gone), at_most=0)
    p99 = [f"{window.milliseconds(0.99):.0f}" for window in (quiet, loud)]
    at_once = [f"{window.milliseconds(0.99):.1f}" for window in (fast_quiet, fast_loud)]
    put = [f"{quantile(times, 0.99):.1f}" for times in (alone.puts, beside.puts)]
    proof.say(
        f"{kind}: p99 {' → '.join(p99)} ms, at once {' → '.join(at_once)}, failed {len(loud.failures)}+{len(fast_loud.failures)}, "
        f"put p99 {' → '.join(put)} (floor {quantile(beside.syncs, 0.99):.1f}), disk {beside.disk:.0f} %, restarted {restarted + moved}, "
        f"images gone {len(gone)}"
    )


def above_the_mark(ground: Ground, disk: Path, fasts: Load) -> None:
    """The disk is filled by who is no pod, so that it stays above the mark: what nothing goes back to is removed, and only that."""
    before = in_order(ground)
    kept, had = kept_images(ground, before), on_node(ground)
    began = time.time()
    with filled(disk):
        wait_for_pressure(ground)
        has = on_node(ground)
    after = in_order(ground)
    case = ground.proof.case("disk above the mark", unit="s")
    case.add("lain", time.time() - began)
    case.target("images of kept releases that were there", len(kept & had), at_least=2)
    case.target("images of kept releases that are gone", len((kept & had) - has), at_most=0)
    case.target(
        "images of the app out of service that are left", sum(name.startswith("past@") for name in has), at_most=0
    )
    window = fasts.window(began, time.time())
    case.target(f"failed of {window.requests} requests", len(window.failures), at_most=0)
    moved = [pod for pod, box in before.pods.items() if pod.startswith("hello.") and _moved(box, after.pods.get(pod))]
    case.target("pods of the app restarted", len(moved), at_most=0)
    ground.proof.say(f"disk above the mark: gone {sorted(had - has)}")


def wait_for_pressure(ground: Ground) -> None:
    """Until the agent says so: it has cleared away what it may before it does."""
    deadline = time.time() + ORDER_SECONDS
    while time.time() < deadline:
        for state, _ in ground.truth.picture().all(keys.NODES_STATE).values():
            told = {one.type: one.status for one in state.conditions}
            if told.get(conditions.DISK_PRESSURE) is ConditionStatus.TRUE:
                return
        time.sleep(0.2)
    raise TimeoutError("the agent does not say that the disk is above the mark")


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """To the middle between the mark and where the disk is called full."""
    usage = shutil.disk_usage(disk)
    more = int(usage.total * (HIGH_PERCENT + 5) / 100) - (usage.total - usage.free)
    strange = disk / "strange"
    try:
        with strange.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(more, 1))
        yield
    finally:
        strange.unlink(missing_ok=True)


def _moved(before: Box, after: Box | None) -> bool:
    return after is None or after.run != before.run


# --- the noise --------------------------------------------------------------------------------------------------------


@contextmanager
def noise(ground: Ground, kind: str, seconds: float) -> Iterator[None]:
    """It is there when the block begins, and has ended soon after."""
    if kind == "connections":
        with flooding(ground.truth.address, 80, ground.noisy.host, connections=CONNECTIONS, seconds=seconds + 15):
            time.sleep(10)
            yield
        return
    until = time.time() + seconds + 20
    ground.truth.ask(
        lambda console: console.set_env(
            "noisy", {"MODE": kind, "UNTIL": f"{until:.0f}", "MOST_BYTES": str(WRITES_BYTES)}
        )
    )
    deadline = time.time() + 30
    while ground.truth.picture().keys(keys.OPERATIONS) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(QUIET_SECONDS)
    yield
    ground.truth.ask(lambda console: console.set_env("noisy", {"MODE": "idle"}))


@contextmanager
def watching(ground: Ground) -> Iterator[Watching]:
    """Puts into etcd, the least that a put costs on its disk, and looks at the disk while the block runs."""
    found, ended = Watching(), threading.Event()

    def puts() -> None:
        while not ended.wait(PUT_SECONDS):
            began = time.perf_counter()
            try:
                ground.truth.wait(ground.truth.store.put("/bench/put", os.urandom(512)))
                found.puts.append(1000 * (time.perf_counter() - began))
            except (LainError, TimeoutError):
                found.put_failures += 1

    def syncs() -> None:
        with tempfile.NamedTemporaryFile(dir=ground.disk or ground.there.folder, prefix="floor-") as file:
            while not ended.wait(PUT_SECONDS):
                began = time.perf_counter()
                os.write(file.fileno(), os.urandom(512))
                os.fdatasync(file.fileno())
                found.syncs.append(1000 * (time.perf_counter() - began))

    def disk() -> None:
        while ground.disk is not None and not ended.wait(LOOK_SECONDS):
            usage = shutil.disk_usage(ground.disk)
            found.disk = max(found.disk, 100 * (usage.total - usage.free) / usage.total)

    threads = [threading.Thread(target=work, daemon=True) for work in (puts, syncs, disk)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.ended = time.time()
        ended.set()
        for thread in threads:
            thread.join(30)


def in_order(ground: Ground, *, restarts: bool = False) -> Look:
    """Once all is in order; with ``restarts``, what crashed meanwhile and runs again is."""
    return order.in_order(ground.truth, ground.node, ORDER_SECONDS, excused=lambda text: restarts and "noisy" in text)


def kept_images(ground: Ground, seen: Look) -> frozenset[str]:
    """The images of every release that a deployed app can go back to."""
    releases = Records(ground.truth.store, keys.RELEASES, Release)
    deployed = {app.name for app, _ in seen.picture.all(keys.APPS).values() if app.release is not None}
    found = [
        releases.decode(key, entry.value)
        for key, entry in seen.picture.entries.items()
        if key.startswith(keys.RELEASES.prefix)
    ]
    return frozenset(proc.template.image for release in found if release.app in deployed for proc in release.procs)


def on_node(ground: Ground) -> frozenset[str]:
    """Every image that the node has, as releases name them: ``repository@digest``."""
    listed = ground.node.sh("docker images --digests --format '{{.Repository}}@{{.Digest}}'").split()
    return frozenset(name.partition("/")[2] for name in listed)


# --- the disk ---------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(proof: Proof) -> Iterator[Path | None]:
    """A file system of ``DISK_BYTES`` in a file; None where the machine cannot have one."""
    if os.environ.get("LAIN_TEST_CLUSTER"):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="lain-disk-") as folder:
        image, mount = Path(folder, "image"), Path(folder, "disk")
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        # past this machine's page cache: through it, one fsync in there waits for all that was written
        device = subprocess.run(
            ["losetup", "--find", "--show", "--direct-io=on", str(image)], check=True, capture_output=True, text=True
        ).stdout.strip()
        proof.facts["disk"] = f"{DISK_BYTES / 2**30:.0f} GiB, ext4 in a file"
        try:
            subprocess.run(["mount", device, str(mount)], check=True)
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", str(mount)], check=False)
            subprocess.run(["losetup", "--detach", device], check=True)


def cluster_on(disk: Path | None) -> AbstractContextManager[LocalCluster]:
    """A cluster whose node keeps its data there."""
    return isolated_cluster("bench", on_disk=disk)
