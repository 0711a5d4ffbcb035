"""The agent's loops around its pods: following the Engine, saying what was seen, saying what the node has, keeping the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from lain_deployd.agent import addresses, volumes
from lain_deployd.agent.addresses import AddressBook
from lain_deployd.agent.blocks import Blocks
from lain_deployd.agent.conditions import carry_over, judge
from lain_deployd.agent.engine import Engine, EngineEvent, EngineInfo, EngineUnavailable
from lain_deployd.agent.facts import Known, Machine
from lain_deployd.agent.keeper import Keeper
from lain_deployd.agent.metrics import AgentMetrics
from lain_deployd.agent.pods import LABEL_NODE, LABEL_POD, Order
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.mirror import Mirror
from lain_shared.model.config import ClusterConfig
from lain_shared.model.node import ConditionStatus, NodeState
from lain_shared.model.pod import Assignment, PodId
from lain_shared.model.route import Endpoints, RouterMember, RouterState
from lain_shared.records import BadRecord, Records
from lain_shared.stopping import until_stopped
from lain_shared.store import Store

log = structlog.get_logger()

TOLD_ACTIONS = frozenset({"create", "start", "die", "destroy", "oom", "pause", "unpause", "rename"})
MAX_BACKOFF_SECONDS = 1.0
SOON_SECONDS = 0.2
MAX_SOON_SECONDS = 5.0
SHORTAGE_LOOK_SECONDS = 1.0
"""How often to look while the node has no network for pods yet: at first, and in the end."""
FEW_ADDRESSES = 32
"""With fewer free ones, the node says what holds the others."""
MIB = 1024 * 1024
FULL_EVERY = 10


class EngineWatch:
    """Background part: every container of ours is known, and what happens to one is noticed at once.

    Subscribe, then list, then read: nothing falls between. Anew every ``resync_seconds``, and whenever the Engine comes back: where events
    came without a break, by the Engine's list alone, as long as that shows what is known; each container is looked at every
    ``FULL_EVERY`` times, and whenever the list shows anything else.
    """

    def __init__(
        self,
        engine: Engine,
        keeper: Keeper,
        metrics: AgentMetrics,
        *,
        clock: Callable[[], float] = time.time,
        resync_seconds: float = 30.0,
    ) -> None:
        self.name = "engine"
        self.reachable = False
        self.info: EngineInfo | None = None
        self.trouble = ""
        self.on_change: Callable[[], None] = lambda: None
        self._engine, self._keeper, self._metrics, self._clock = engine, keeper, metrics, clock
        self._resync_seconds = resync_seconds
        self._stopped = asyncio.Event()
        self._last_contact = keeper.saved.last_event_nano / 1e9 or clock()
        self._known = False
        """This process has met the Engine before."""
        self._rounds = 0

    @property
    def ready(self) -> bool:
        return self.reachable

    @property
    def why_not_ready(self) -> str:
        return "" if self.reachable else self.trouble or "the Engine has not answered yet"

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        await until_stopped(self._stopped, self._follow())

    async def _follow(self) -> None:
        failures = 0
        while True:
            try:
                await self._one_round()
                failures = 0
            except LainError as error:
                failures = 0 if self.reachable else failures + 1
                self._lost(error)
                await asyncio.sleep(min(0.05 * 2.0 ** min(failures, 10), MAX_BACKOFF_SECONDS))

    async def _one_round(self) -> None:
        self.info = await self._engine.info()
        self._keeper.cpus = self.info.cpus
        self._keeper.saved = replace(self._keeper.saved, engine_id=self.info.id)
        await self._same_engine()
        since_nano = self._keeper.saved.last_event_nano if self._keeper.saved.last_event else 0
        async with self._engine.events(since_nano) as events:
            asked_nano = time.time_ns()
            if not await self._as_known():
                self._keeper.relisted(
                    await self._engine.containers({LABEL_POD: "", LABEL_NODE: self._keeper.node}), asked_nano
                )
            self._found()
            try:
                async with asyncio.timeout(self._resync_seconds):
                    async for event in events:
                        self._take(event)
            except TimeoutError:
                self._last_contact = self._clock()
                return
        raise EngineUnavailable("the Engine ended its events")

    async def _as_known(self) -> bool:
        """The Engine's list shows our containers in the states that are known: one question instead of one a container."""
        self._rounds += 1
        if not self.reachable or not self._keeper.listed or self._rounds % FULL_EVERY == 0:
            return False
        listed = sorted(
            (one.labels.get(LABEL_POD, ""), one.state)
            for one in await self._engine.glance()
            if LABEL_POD in one.labels and one.labels.get(LABEL_NODE) == self._keeper.node
        )
        return listed == sorted((str(pod), one.state) for pod, ours in self._keeper.containers.items() for one in ours)

    async def _same_engine(self) -> None:
        """Find out whether the Engine is the process we knew: it remembers its own events, and nobody else's."""
        saved = self._keeper.saved
        if self.reachable:
            return  # no break since we last looked
        if saved.last_event:
            remembered = await self._engine.recent_events(saved.last_event_nano)
            if any(event.identity == saved.last_event for event in remembered):
                return
        elif self._known:
            pass  # it said nothing so far, and went away: take it for another one
        now = self._clock()
        log.info("engine_is_new", last_contact=round(self._last_contact, 3))
        self._keeper.engine_restarted(self._last_contact, now)

    def _take(self, event: EngineEvent) -> None:
        """Events may come after newer ones (the Engine stamps them before it queues them), and again: the keeper knows what it has seen."""
        self._last_contact = self._clock()
        saved = self._keeper.saved
        if event.at_nano >= saved.last_event_nano:
            self._keeper.saved = replace(saved, last_event_nano=event.at_nano, last_event=event.identity)
        if event.action in TOLD_ACTIONS:
            self._keeper.happened(event)

    def _found(self) -> None:
        self._known = True
        if not self.reachable:
            self.reachable, self.trouble = True, ""
            self._metrics.engine_up.set(1)
            log.info("engine_reached", version=self.info.version if self.info else "")
            self.on_change()
        self._last_contact = self._clock()
        self._keeper.wake()

    def _lost(self, error: LainError) -> None:
        self.trouble = f"{error.message}: {error.why}" if error.why else error.message
        if self.reachable:
            log.warning("engine_lost", error=self.trouble)
        self.reachable = False
        self._metrics.engine_up.set(0)
        self.on_change()


class Surroundings:
    """What the store says that addresses and orders depend on."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        assignments: Mirror[Assignment],
        endpoints: Mirror[Endpoints],
        members: Mirror[RouterMember],
        routers: Mirror[RouterState],
        blocks: Blocks,
        quarantine_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keeper, self._assignments, self._blocks = keeper, assignments, blocks
        self._endpoints, self._members, self._routers = endpoints, members, routers
        self._quarantine_seconds, self._clock = quarantine_seconds, clock
        self._named = addresses.Named()
        keeper.free, keeper.look_around = self.free, self.look_around

    def take_orders(self) -> None:
        """Hand the assignments on to the keeper, if the store has been read."""
        if self._assignments.ready:
            snapshot = self._assignments.snapshot()
            orders = (Order(stored.value, stored.entry.mod_revision) for stored in snapshot.values())
            unreadable = (pod_of(key) for key in self._assignments.bad)
            self._keeper.ordered({order.pod: order for order in orders}, (pod for pod in unreadable if pod is not None))

    @property
    def _known(self) -> bool:
        return self._endpoints.ready and self._members.ready and self._routers.ready

    def look_around(self, book: AddressBook, used: Iterable[str], quiet: Iterable[str]) -> AddressBook:
        """The address book with what is used and named now."""
        if not self._blocks.block:
            return book
        if book.block != self._blocks.block:
            book = AddressBook(self._blocks.block)
        if not self._endpoints.ready:
            return book
        named = self._named.within(book.block, self._endpoints.snapshot())
        return book.seen(used=used, named=named, revision=self._endpoints.revision, now=self._clock(), quiet=quiet)

    def free(self, book: AddressBook) -> tuple[str, ...]:
        """Addresses for new pods: none while it is not known who else may know them, or the network is not there."""
        if not (self._known and self._blocks.network_ready) or self._endpoints.bad:
            return ()
        members, states = self._who_routes()
        applied = addresses.applied_by_all(members, states)
        return book.free(now=self._clock(), quarantine_seconds=self._quarantine_seconds, applied_revision=applied)

    def problems(self, book: AddressBook) -> tuple[str, ...]:
        """Why addresses run short, if they do: what cannot be read, and routers that have not applied that they were freed."""
        if not self._known:
            return ()
        if self._endpoints.bad:
            return (f"no address is given out while {min(self._endpoints.bad)} cannot be read: it may name any",)
        if len(self.free(book)) >= FEW_ADDRESSES:
            return ()
        members, states = self._who_routes()
        found: list[str] = []
        for router in sorted(member.router for member in members):
            applied = addresses.applied_by(router, states)
            held = book.held_for(applied, now=self._clock(), quarantine_seconds=self._quarantine_seconds)
            if held:
                found.append(f"router {router} holds {held} addresses: it has not said that it no longer sends to them")
        return tuple(found)

    def _who_routes(self) -> tuple[list[RouterMember], dict[str, RouterState]]:
        members = [stored.value for stored in self._members.snapshot().values()]
        return members, {stored.value.router: stored.value for stored in self._routers.snapshot().values()}


class NodeReport:
    """One pass of the loop that keeps the address block and ``nodes-state/<node>`` (read again as ``Observing`` does); it clears images."""

    def __init__(
        self,
        store: Store,
        keeper: Keeper,
        watch: EngineWatch,
        *,
        blocks: Blocks,
        clear_images: Callable[[], Awaitable[None]],
        cluster: Callable[[], ClusterConfig | None],
        root: Path,
        reserved_memory_bytes: int | None,
        disk_high_percent: int,
        free_addresses: Callable[[], int],
        address_problems: Callable[[], tuple[str, ...]],
        unreadable: Callable[[], Mapping[str, str]],
        version: str,
        clock: Callable[[], float] = time.time,
        verify_seconds: float = 30.0,
    ) -> None:
        self._records = Records(store, keys.NODES_STATE, NodeState)
        self._verify_seconds = verify_seconds
        self._keeper, self._watch, self._blocks, self._cluster = keeper, watch, blocks, cluster
        self._clear_images = clear_images
        self.machine: Machine | None = None
        """What was found on the node when somebody last looked."""
        self._clock = clock
        self.root = root
        self.missing: frozenset[str] = frozenset()
        """Instances whose data was on this node and is not there."""
        self._reserved_memory_bytes, self._disk_high_percent = reserved_memory_bytes, disk_high_percent
        self._free_addresses, self._address_problems, self._version = free_addresses, address_problems, version
        self._unreadable = unreadable
        self._soon_seconds = SOON_SECONDS
        self._written: NodeState | None = None
        self._read_at: float | None = None

    async def one_pass(self) -> float | None:
        if self._read_at is None or time.monotonic() - self._read_at >= self._verify_seconds:
            await self._read()
        network_trouble = await self._block()
        await self.look_at_volumes()
        await self._clear_images()
        state = self._state(network_trouble)
        if state is not None and not nearly_same(self._written, state):
            await self._records.put(state, self._keeper.node)
            self._written = state
        if self._blocks.network_ready and state is not None:
            self._soon_seconds = SOON_SECONDS
            # few addresses may be many again as soon as a router is back: nobody should be refused for what was true half a minute ago
            return SHORTAGE_LOOK_SECONDS if state.free_addresses < FEW_ADDRESSES else None
        self._soon_seconds = min(self._soon_seconds * 1.5, MAX_SOON_SECONDS)
        return self._soon_seconds

    async def _read(self) -> None:
        try:
            stored = await self._records.get(self._keeper.node)
        except BadRecord as error:
            log.error("record_unreadable", key=self._records.family.key(self._keeper.node), error=str(error))
            stored = None
        self._written = None if stored is None else stored.value
        if self._read_at is None:  # later it names what has been given up since
            self._learn_volumes(() if stored is None else stored.value.volumes)
            self._keeper.knows_volumes()
        self._read_at = time.monotonic()

    async def _block(self) -> str:
        """Claim the block and keep its network; returns why that is not possible, "" when it is."""
        trouble, cluster = "", None
        try:
            cluster = self._cluster()
        except BadRecord as error:  # a block that is known will do
            trouble = f"{error.message}: {error.why}"
        try:
            before = self._blocks.network_ready
            await self._blocks.ensure(None if cluster is None else cluster.pod_network)
            if not before:
                self._keeper.wake()
        except EngineUnavailable:
            pass  # said for itself
        except LainError as error:
            return trouble or (f"{error.message}: {error.why}" if error.why else error.message)
        return trouble

    def _learn_volumes(self, named: Iterable[str]) -> None:
        saved = self._keeper.saved
        self._keeper.saved = replace(saved, volumes=tuple(sorted({*saved.volumes, *named})))

    async def look_at_volumes(self) -> frozenset[str]:
        """Look at the disk; returns ``missing``."""
        there = await asyncio.to_thread(volumes.on_disk, self.root)
        self._learn_volumes(there)
        self.missing = frozenset(self._keeper.saved.volumes) - there
        return self.missing

    def forget_volume(self, name: str) -> None:
        """Its data is given up: the instance may start with none."""
        saved = self._keeper.saved
        self._keeper.saved = replace(saved, volumes=tuple(one for one in saved.volumes if one != name))
        self.missing -= {name}
        self._keeper.hurry(name)

    def _state(self, network_trouble: str) -> NodeState | None:
        """What to publish; None: nothing is known of this machine yet, by way of its Engine."""
        if not self._watch.reachable and not self._watch.trouble:
            return None  # not met yet: an agent that starts says nothing of an Engine that may be well
        known = self._known(network_trouble)
        conditions = carry_over(
            () if self._written is None else self._written.conditions, judge(known, self.machine), known.now
        )
        problems = tuple(one.message for one in conditions if one.status is ConditionStatus.TRUE)
        info = self._watch.info
        if info is None:
            if self._written is None:
                return None
            # an agent that starts beside a dead Engine: what its node has is as it was, what is wrong with it is not
            return replace(self._written, engine_reachable=False, problems=problems, conditions=conditions)
        usage = shutil.disk_usage(existing(self.root))
        reserved = self._reserved_memory_bytes
        return NodeState(
            node=self._keeper.node,
            cpus=info.cpus,
            memory_bytes=info.memory_bytes,
            reserved_memory_bytes=max(256 * MIB, info.memory_bytes // 20) if reserved is None else reserved,
            disk_total_bytes=usage.total,
            disk_free_bytes=usage.free,
            engine_version=info.version,
            engine_reachable=self._watch.reachable,
            agent_version=self._version,
            kernel=info.kernel,
            block=self._blocks.block,
            free_addresses=self._free_addresses(),
            volumes=self._keeper.saved.volumes,
            problems=problems,
            conditions=conditions,
        )

    def _known(self, network_trouble: str) -> Known:
        watch = self._watch
        return Known(
            node=self._keeper.node,
            now=self._clock(),
            engine_trouble=None if watch.reachable else watch.trouble,
            live_restore=watch.info is None or watch.info.live_restore,
            network_trouble=network_trouble,
            address_problems=self._address_problems(),
            missing_volumes=tuple(self.missing),
            unreadable=self._unreadable(),
            disk_high_percent=self._disk_high_percent,
        )


def pod_of(key: str) -> PodId | None:
    """The pod an assignment's key names; None for a key that names none."""
    try:
        return PodId.parse(keys.ASSIGN.parse(key)[1])
    except ValueError:
        return None


def existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def nearly_same(one: NodeState | None, other: NodeState) -> bool:
    """Whether two states differ only in what is not worth a write: disk by less than a hundredth of it."""
    if one is None or abs(one.disk_free_bytes - other.disk_free_bytes) * 100 > other.disk_total_bytes:
        return False
    return replace(one, disk_free_bytes=other.disk_free_bytes) == other


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return os.uname().release
