"""The agent's parts, in the order in which they start: the only file that knows them all."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from prometheus_client import CollectorRegistry

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent import api, loops
from lain_deployd.agent.blocks import Blocks
from lain_deployd.agent.clearing import Clearing
from lain_deployd.agent.deletions import Deletions
from lain_deployd.agent.disk import Disk
from lain_deployd.agent.engine import Engine, EngineInfo
from lain_deployd.agent.execute import Executor
from lain_deployd.agent.gather import ENGINE_DATA, Gatherer, Sources
from lain_deployd.agent.images import Images
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.kept import Kept
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.pressure import Disk as EngineDisk
from lain_deployd.agent.pressure import Pressure, disk_of
from lain_deployd.agent.probes import Prober
from lain_deployd.agent.settings import PREFIX, Settings
from lain_deployd.agent.spec import Place
from lain_deployd.agent.telling import Observing
from lain_shared import daemon, keys
from lain_shared.daemon import Daemon, Health
from lain_shared.etcd import EtcdStore
from lain_shared.lease import Presence
from lain_shared.loop import Loop, LoopMetrics
from lain_shared.mirror import Mirror
from lain_shared.model.config import ClusterConfig
from lain_shared.model.node import Alive, Node
from lain_shared.model.pod import Assignment
from lain_shared.model.route import Endpoints, RouterMember, RouterState
from lain_shared.model.volume import VolumeDeletion
from lain_shared.records import BadRecord, Records, encode
from lain_shared.settings import read_settings
from lain_shared.store import Store
from lain_shared.tls import server_context
from lain_shared.trust import Trust

PASSES_DUTY = 0.1
"""Of the processor, at most: every pod of the node is looked at in each pass, and each step of each pod asks for one."""
IN_CONTAINER = Path("/.dockerenv")
"""What the Engine puts into every container."""


@asynccontextmanager
async def agent(settings: Settings, health: Health) -> AsyncIterator[Daemon]:
    """An agent on etcd and the node's Engine, ready to run."""
    settings.check()
    async with (
        EtcdStore.connect(settings.etcd, tls_dir=settings.tls_dir) as store,
        DockerEngine.connect(settings.docker, containerd=settings.containerd) as engine,
    ):
        yield assembled(settings, health, store, engine, members_of_etcd=settings.etcd)


def assembled(
    settings: Settings,
    health: Health,
    store: Store,
    engine: Engine,
    *,
    members_of_etcd: tuple[str, ...] = (),
    on_listening: Callable[[int], None] = lambda _port: None,
) -> Daemon:
    """The same on any store and engine. ``members_of_etcd``: ``host:port`` of the store's, if it has any."""
    clock, node = time.time, settings.node
    registry = CollectorRegistry()
    metrics, loop_metrics = AgentMetrics(registry), LoopMetrics(registry)
    disk = Disk(settings.state_dir / "agent.json")
    images = Images(engine, settings.credentials, clock)
    executor = Executor(
        engine, images,
        lambda: Place(
            node, settings.registry, settings.root, keeper.cpus, settings.pod_processes, settings.pod_open_files
        ),
        lambda: keeper.saved.volumes, on_volume=lambda name: keeper.has_volume(name),  # noqa: PLW0108 - made below
        on_step=metrics.took, clock=clock, parallel_starts=settings.parallel_starts,
    )  # fmt: skip
    keeper = Keeper(node, engine, executor, disk, metrics, clock=clock)
    images.used.update(keeper.saved.images)
    images.on_used, images.on_step = keeper.used_images, metrics.took
    keeper.prober = prober = Prober(engine, clock=clock, on_ready=keeper.became_ready, on_restart=keeper.wants_restart)
    watch = loops.EngineWatch(engine, keeper, metrics, clock=clock, resync_seconds=settings.resync_seconds)
    blocks = Blocks(store, engine, node, wanted=settings.block, remembered=keeper.book.block)

    def look() -> None:
        surroundings.take_orders()
        pods.wake()

    trust = Trust(store)
    config = trust.parts[0]
    assignments = Mirror(Records(store, keys.ASSIGN, Assignment), under=(node,), on_change=look)
    endpoints = Mirror(Records(store, keys.ENDPOINTS, Endpoints), on_change=look)
    members = Mirror(Records(store, keys.ROUTER_MEMBERS, RouterMember), on_change=look)
    routers = Mirror(Records(store, keys.ROUTERS, RouterState), on_change=look)
    surroundings = loops.Surroundings(
        keeper, assignments=assignments, endpoints=endpoints, members=members, routers=routers, blocks=blocks,
        quarantine_seconds=settings.address_quarantine_seconds, clock=clock,
    )  # fmt: skip

    def free_addresses() -> int:
        count = len(surroundings.free(keeper.book))
        metrics.free_addresses.set(count)
        return count

    often: dict[str, Any] = {
        "resync_seconds": settings.resync_seconds, "max_backoff_seconds": 1.0, "metrics": loop_metrics,
    }  # fmt: skip
    pods = Loop("passes", keeper.one_pass, duty=PASSES_DUTY, **often)
    observing = Observing(store, keeper, verify_seconds=settings.resync_seconds)
    observed = Loop("observed", observing.one_pass, **often)
    kept = Kept(store, settings.registry)

    def engine_disk() -> EngineDisk | None:
        path = _places(settings, watch.info).get(ENGINE_DATA)
        return None if path is None else disk_of(path)

    clearing = Clearing(
        keeper, images, kept, reachable=lambda: watch.reachable, look=engine_disk,
        high_percent=settings.disk_high_percent, registry=settings.registry,
    )  # fmt: skip
    report = loops.NodeReport(
        store, keeper, watch, blocks=blocks, clear_images=clearing.one_pass, cluster=partial(_cluster, config),
        root=settings.volumes_root, reserved_memory_bytes=settings.reserved_memory_bytes,
        disk_high_percent=settings.disk_high_percent, free_addresses=free_addresses,
        address_problems=lambda: surroundings.problems(keeper.book), version=version("lain-deployd"),
        unreadable=lambda: {**assignments.bad, **endpoints.bad, **kept.bad}, clock=clock, verify_seconds=settings.resync_seconds,
    )  # fmt: skip
    states = Loop("node", report.one_pass, **often)
    gatherer = Gatherer(
        Sources(
            places=lambda: _places(settings, watch.info), registry=settings.registry, credentials=settings.credentials,
            members=members_of_etcd, tls_dir=settings.tls_dir,
        ),
        engine, block=lambda: blocks.block, nodes=Records(store, keys.NODES, Node), node=node, clock=clock,
    )  # fmt: skip

    async def look_at_machine() -> None:
        report.machine = await gatherer.look()
        states.wake()

    looking = Loop("machine", look_at_machine, **{**often, "resync_seconds": settings.conditions_seconds})
    clearing.on_cleared = looking.wake
    pressure = Pressure(
        engine, keeper, look=engine_disk, clear_images=clearing.one_pass,
        share_percent=settings.pod_disk_percent, high_percent=settings.disk_high_percent,
    )  # fmt: skip

    async def press() -> float:
        return await pressure.one_pass(known=watch.reachable and keeper.listed)

    pressing = Loop("pressure", press, **often)
    orders_to_delete = Mirror(
        Records(store, keys.VOLUME_DELETIONS, VolumeDeletion),
        under=(node,),
        on_change=lambda: deleting.wake(),  # noqa: PLW0108 - made below
    )

    def forget_volume(name: str) -> None:
        report.forget_volume(name)
        states.wake()

    deletions = Deletions(keeper, orders_to_delete, settings.volumes_root, forget_volume)
    deleting = Loop("volume-deletions", deletions.one_pass, **often)
    saving = Loop("disk", keeper.save_now_and_then, **often)
    keeper.on_pass = saving.wake
    keeper.wake, keeper.on_report, keeper.on_volumes = pods.wake, observed.wake, states.wake
    presence = Presence(
        store, partial(_alive, settings, keeper, clock()), settings.lease_seconds, settings.state_dir / "lease.json",
        may_begin=lambda: observing.current,  # a node that is back is believed: first it says what runs
    )  # fmt: skip
    observing.on_current = presence.wake

    def engine_changed() -> None:
        looking.wake()
        states.wake()
        presence.wake()

    watch.on_change = engine_changed
    parts = (
        *trust.parts,
        assignments,
        endpoints,
        members,
        routers,
        watch,
        keeper,
        prober,
        pods,
        saving,
        observed,
        states,
        looking,
        orders_to_delete,
        deleting,
        pressing,
    )
    health.parts.extend(
        (*(part for part in parts if part is not looking), presence)
    )  # it only tells, nothing waits for it
    app = api.api.build(
        verifier=trust.verifier,
        probes=health.probes,
        metrics=registry,
        context={api.KEEPER: keeper, api.ENGINE: engine, api.NODE: report, api.NODE_LOOP: states},
    )
    return Daemon(
        name="agent",
        parts=parts,
        lasting=(presence,),
        app=app,
        listen=settings.listen,
        port=settings.port,
        ssl_context=server_context(settings.tls_dir) if settings.tls_dir else None,
        grace_seconds=settings.grace_seconds,
        http_grace_seconds=1.0,  # a relayed log that is followed must not outlast the presence
        on_listening=on_listening,
    )


def _alive(settings: Settings, keeper: Keeper, since: float) -> tuple[str, bytes]:
    alive = Alive(
        node=settings.node,
        agent_url=settings.agent_url,
        engine_id=keeper.saved.engine_id,  # also while the Engine is away: another id means another installation
        boot_id=loops.boot_id(),
        since=since,
    )
    return keys.ALIVE.key(settings.node), encode(alive, keys.ALIVE.version)


def _places(settings: Settings, info: EngineInfo | None) -> Mapping[str, Path]:
    """What of ours lies where. In a container, its own root is on the disk of the Engine's data."""
    found = {
        "volumes": loops.existing(settings.volumes_root),
        "the agent's state": loops.existing(settings.state_dir),
    }
    engine = (
        Path("/") if IN_CONTAINER.exists() else Path(info.data_root) if info is not None and info.data_root else None
    )
    return {**found, ENGINE_DATA: engine} if engine is not None and engine.exists() else found


def _cluster(config: Mirror[dict[str, Any]]) -> ClusterConfig | None:
    """``config/cluster``; None before bootstrap wrote it, or while it is not known. Raises ``BadRecord``."""
    if not config.ready or (stored := config.get("cluster")) is None:
        return None
    try:
        return msgspec.convert(stored.value, ClusterConfig)
    except msgspec.ValidationError as error:
        raise BadRecord(f"{stored.entry.key} does not hold the cluster's settings", why=str(error)) from error


def main() -> NoReturn:
    """Entry point of ``lain-deployd-agent``."""
    daemon.main("agent", _from_environment, log_level=os.environ.get(f"{PREFIX}LOG_LEVEL", "info"))


@asynccontextmanager
async def _from_environment(health: Health) -> AsyncIterator[Daemon]:
    async with agent(read_settings(Settings, PREFIX), health) as built:
        yield built
