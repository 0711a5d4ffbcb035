"""A hundred apps, idle: what each daemon holds of memory and takes of the processor, and what an instance takes of etcd.

The pods are real ones, on one node: its agent, its Engine's events and its router's table are what they would be. Each runs busybox's web
server, so that a hundred fit beside everything else on a small machine; nobody asks them anything but the agent's probes. Once all is in
order and has rested, several windows of half a minute (the longest interval at which a daemon looks again) are measured.

``floor``: a process of the daemons' own image that does nothing but listen with aiohttp and follow one etcd prefix. ``container``: the
processor's time by the container's account, the Engine's healthcheck in it included, which is a process of its own each minute.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.report import Case, Proof
from bench.stage.cluster import Stage, stage
from bench.stage.many import deploy_all, tiny
from bench.stage.node import NODE, Node
from bench.stage.order import in_order
from bench.stage.truth import Picture, Truth
from bench.stage.usage import Usage, container_seconds, usages
from lain_cli.local.images import PLATFORM
from lain_cli.local.platform import Site, parts, run_argv
from lain_shared import keys
from lain_shared.store import Entry

if TYPE_CHECKING:
    from bench.__main__ import Options

APPS, QUICK_APPS = 100, 10
WINDOWS, QUICK_WINDOWS = 6, 2
WINDOW_SECONDS = 30.0
REST_SECONDS, QUICK_REST_SECONDS = 60.0, 10.0
ORDER_SECONDS = 300.0
DAEMONS = {"console": "console", "controller": "deployd", "agent": "agent", "watcher": "watcher"}
"""Daemon → its part of the platform. The others of it are not ours, and are told without a target."""
MEMORY_MIB, CPU_PERCENT, INSTANCE_BYTES = 80.0, 1.0, 2048.0
PLAIN = "tiny"
RICH = f"{PLAIN}-rich"
RICH_INSTANCES = 3
RICH_LINES = f"""\
  num_instances: {RICH_INSTANCES}
  env: [{", ".join(f"SETTING_{number}=a value of common length {number}" for number in range(10))}]
  volumes: [/data]
"""
FLOOR = "floor"
FLOOR_SCRIPT = """
import asyncio, pathlib
from aiohttp import web
from lain_shared.etcd import EtcdStore

async def main():
    async with EtcdStore.connect(("%s:2379",), tls_dir=pathlib.Path("/etc/lain/tls")) as store:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        at = (await store.list("/lain/nodes/")).revision
        async for _ in store.watch("/lain/nodes/", start_revision=at + 1):
            pass

asyncio.run(main())
"""


def run(proof: Proof, options: Options) -> None:
    count = QUICK_APPS if options.quick else APPS
    windows = options.rounds or (QUICK_WINDOWS if options.quick else WINDOWS)
    with (
        stage(proof) as on,
        Node.of(on.cluster.container) as node,
        Truth.of(on.cluster, node) as truth,
    ):
        _deploy(proof, on, count)
        pods = len(in_order(truth, node, ORDER_SECONDS, every_seconds=0.5).pods)
        proof.facts.update(apps=count, pods=pods, windows=windows, window_seconds=WINDOW_SECONDS)
        with floor(node, truth.address):
            proof.say("all is in order: rest")
            time.sleep(QUICK_REST_SECONDS if options.quick else REST_SECONDS)
            measure(proof, on, node, windows)
        stored(proof, truth.picture())


def _deploy(proof: Proof, on: Stage, count: int) -> None:
    source = tiny(on)
    proof.say(f"deploying {count} apps")
    names = [f"{PLAIN}-{number:03d}" for number in range(2, count + 1)]  # the first is the one whose image all have
    asyncio.run(deploy_all(on, source, names))
    asyncio.run(deploy_all(on, source, [RICH], RICH_LINES))


@contextmanager
def floor(node: Node, address: str) -> Iterator[None]:
    """Beside the daemons, in the same image and as the same user as the controller, until the block ends."""
    part = next(one for one in parts(Site(NODE, address)) if one.name == "deployd")
    tag = next(image.tag for image in PLATFORM if image.name == part.image)
    idle = dataclasses.replace(part, name=FLOOR, command=("python3", "-c", FLOOR_SCRIPT % address))
    node.run("docker", *run_argv(idle, tag, node.run("docker", "image", "inspect", "--format", "{{.Id}}", tag)))
    try:
        yield
    finally:
        node.run("docker", "rm", "--force", idle.container)


# --- memory and processor ---------------------------------------------------------------------------------------------


def measure(proof: Proof, on: Stage, node: Node, windows: int) -> None:
    boxes = node.parts()
    roots = {name: box.pid for name, box in boxes.items()} | {"dockerd": node.pids("dockerd")[0]}
    names = {part: name for name, part in DAEMONS.items()} | {
        name: name for name in roots if name not in DAEMONS.values()
    }
    ids = {name: box.id for name, box in boxes.items()}
    container = on.cluster.container
    before, accounts, at = usages(node, roots), container_seconds(container, ids.values()), time.monotonic()
    for number in range(windows):
        time.sleep(WINDOW_SECONDS)
        after, spent, now = usages(node, roots), container_seconds(container, ids.values()), time.monotonic()
        for part, name in names.items():
            _memory(proof, name).add("rss", after[part].rss_kib / 1024)
            _memory(proof, name).add("pss", after[part].pss_kib / 1024)
            share = 100 / (now - at)
            _processor(proof, name).add("lain", (after[part].cpu_seconds - before[part].cpu_seconds) * share)
            if part in ids:
                _processor(proof, name).add("container", (spent[ids[part]] - accounts[ids[part]]) * share)
        proof.say(f"window {number + 1} of {windows}: {_shown(proof)}")
        before, accounts, at = after, spent, now
    judge(proof, before, names)


def judge(proof: Proof, last: Mapping[str, Usage], names: Mapping[str, str]) -> None:
    """Each daemon beside the floor; the others are told."""
    for part, name in names.items():
        memory, processor = _memory(proof, name), _processor(proof, name)
        memory.note(
            f"{last[part].processes} processes, {last[part].threads} threads, {last[part].descriptors} descriptors"
        )
        if name not in DAEMONS:
            continue
        for kind in ("rss", "pss"):
            memory.add(f"floor {kind}", *_memory(proof, FLOOR).samples[kind])
        processor.add(FLOOR, *_processor(proof, FLOOR).samples["lain"])
        memory.target("median resident memory", memory.median("rss"), at_most=MEMORY_MIB)
        processor.target("median share of a core", processor.median(), at_most=CPU_PERCENT)


def _memory(proof: Proof, name: str) -> Case:
    return proof.case(f"{name}: memory at rest", "MiB")


def _processor(proof: Proof, name: str) -> Case:
    return proof.case(f"{name}: processor at rest", "% of a core")


def _shown(proof: Proof) -> str:
    return ", ".join(
        f"{name} {_memory(proof, name).samples['rss'][-1]:.0f} MiB {_processor(proof, name).samples['lain'][-1]:.2f} %"
        for name in (*DAEMONS, FLOOR)
    )


# --- etcd -------------------------------------------------------------------------------------------------------------


def stored(proof: Proof, picture: Picture) -> None:
    """Bytes of key and value, as they lie in etcd, that one instance has."""
    served = picture.all(keys.ENDPOINTS)
    bytes_of: dict[str, list[float]] = {PLAIN: [], RICH: []}
    for where, (order, entry) in picture.all(keys.ASSIGN).items():
        pod = order.pod
        seen = picture.entries[keys.OBSERVED.key(*where.split("/"))]
        endpoints, kept = served[f"{pod.app}/{pod.proc}"]
        share = _size(kept) / len(endpoints.ready) if endpoints.ready else math.nan
        bytes_of[RICH if pod.app == RICH else PLAIN].append(_size(entry) + _size(seen) + share)
    case = proof.case("etcd: assign + observed + share of endpoints, an instance", "bytes")
    case.add("lain", *bytes_of[PLAIN])
    case.target("the largest", case.worst(), at_most=INSTANCE_BYTES)
    case = proof.case("the same, of an app with ten variables of 36 bytes, a volume and three instances", "bytes")
    case.add("lain", *bytes_of[RICH])
    case.note("told, without a target: what an app says of itself is kept as it stands")


def _size(entry: Entry) -> int:
    return len(entry.key.encode()) + len(entry.value)
