"""An agent without an Engine: to the rest of the cluster it is one (presence, node state, address block, ``observed``), and runs nothing.

One process holds hundreds of them, so that a cluster can be made large without machines. Its pods' addresses are in its block and answer
nobody, unless something else is listening there. Whoever runs it needs the rights of every agent: etcd's root.

    async with EtcdStore.connect(["10.0.0.11:2379"], tls_dir=root) as store:
        async with SimulatedAgent.running(store, "sim-1", block="172.20.200.0/24"):
            ...
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace

from lain_shared import keys
from lain_shared.lease import Presence
from lain_shared.loop import Loop
from lain_shared.mirror import Mirror
from lain_shared.model.node import Alive, Block, Node, NodeState
from lain_shared.model.pod import Assignment, Observed, PodId, PodState, ProcType
from lain_shared.records import Records, Stored, encode
from lain_shared.store import Put, Store, Write
from lain_shared.testing import eventually

BATCH = 64
"""Writes a transaction."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How it behaves. ``start_seconds``: until a container runs; ``ready_seconds``: from then until it is ready; ``stop_seconds``."""

    start_seconds: float = 0.0
    ready_seconds: float = 0.0
    stop_seconds: float = 0.0
    cpus: int = 8
    memory_bytes: int = 64 * 2**30
    lease_seconds: int = 5


@dataclass(slots=True)
class _Pod:
    """One pod as it would be. ``moved_at``: when it came to its state (monotonic)."""

    order: Assignment
    revision: int
    seen: Observed
    moved_at: float


@dataclass(slots=True)
class SimulatedAgent:
    """One node's. ``pods``: what it would be running."""

    store: Store
    node: str
    block: str
    habits: Habits = field(default_factory=Habits)
    pods: dict[PodId, _Pod] = field(default_factory=dict)
    _free: deque[str] = field(default_factory=deque)
    _written: dict[PodId, Observed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        network = ipaddress.ip_network(self.block)
        self._free.extend(str(address) for address in list(network.hosts())[1:])

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, store: Store, node: str, block: str, habits: Habits | None = None
    ) -> AsyncIterator[SimulatedAgent]:
        """Registered and present when the block begins; its presence is given up, and nothing of it is left, when it ends."""
        agent = cls(store, node, block, habits or Habits())
        await agent._register()
        loop = Loop(f"agent {node}", lambda: agent._one_pass(assignments), max_backoff_seconds=1.0)
        assignments = Mirror(Records(store, keys.ASSIGN, Assignment), under=(node,), on_change=loop.wake)
        presence = Presence(store, agent._alive, agent.habits.lease_seconds, name=f"presence {node}", release=True)
        parts = (assignments, loop, presence)
        tasks = [asyncio.create_task(part.run(), name=part.name) for part in parts]
        try:
            await assignments.wait_whole()
            await eventually(lambda: presence.ready, what=f"{node} is present")
            yield agent
        finally:
            for part in parts:
                part.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agent._leave()

    # --- what it says of its node -------------------------------------------------------------------------------------

    async def _register(self) -> None:
        node = Node(self.node, "127.0.0.1")
        state = NodeState(
            self.node, self.habits.cpus, self.habits.memory_bytes, 0, 2**40, 2**39, "20.10.24", agent_version="simulated",
            block=self.block, free_addresses=len(self._free),
        )  # fmt: skip
        await self.store.txn(
            [],
            [
                Put(keys.NODES.key(self.node), encode(node, keys.NODES.version)),
                Put(keys.NODES_STATE.key(self.node), encode(state, keys.NODES_STATE.version)),
                Put(keys.BLOCKS.key(self.block), encode(Block(self.block, self.node), keys.BLOCKS.version)),
            ],
        )

    def _alive(self) -> tuple[str, bytes]:
        alive = Alive(self.node, "https://127.0.0.1:9", f"simulated {self.node}", "simulated", 0.0)
        return keys.ALIVE.key(self.node), encode(alive, keys.ALIVE.version)

    async def _leave(self) -> None:
        family = Records(self.store, keys.OBSERVED, Observed)
        for entry in (await self.store.list(family.family.under(self.node))).entries:
            await self.store.delete(entry.key)
        for key in (keys.NODES_STATE.key(self.node), keys.BLOCKS.key(self.block), keys.NODES.key(self.node)):
            await self.store.delete(key)

    # --- its pods -----------------------------------------------------------------------------------------------------

    async def _one_pass(self, assignments: Mirror[Assignment]) -> float | None:
        await assignments.wait_whole()
        now = time.monotonic()
        orders = {stored.value.pod: stored for stored in assignments.snapshot().values()}
        for pod, stored in orders.items():
            self._take(pod, stored, now)
        for pod in [pod for pod in self.pods if pod not in orders]:
            self._free.append(self.pods.pop(pod).seen.address)  # its assignment was taken away
        due = [again for pod in list(self.pods) if (again := self._step(pod, now)) is not None]
        await self._tell()
        return max(min(due) - time.monotonic(), 0.0) if due else None

    def _take(self, pod: PodId, stored: Stored[Assignment], now: float) -> None:
        order, revision = stored.value, stored.entry.mod_revision
        known = self.pods.get(pod)
        if known is None:
            if not order.run:
                return
            seen = Observed(
                pod.app, pod.proc, pod.instance, pod.generation, PodState.CREATED, revision, address=self._free.popleft(),
                container_id=f"{abs(hash(pod)):064x}", cpu=order.template.cpu, memory_bytes=order.template.memory_bytes,
            )  # fmt: skip
            self.pods[pod] = _Pod(order, revision, seen, now)
            return
        known.order, known.revision = order, revision
        known.seen = replace(
            known.seen, assign_revision=revision, cpu=order.template.cpu, memory_bytes=order.template.memory_bytes
        )
        if not order.run and known.seen.state is not PodState.STOPPING:
            known.seen, known.moved_at = replace(known.seen, state=PodState.STOPPING, ready=False, ready_at=None), now

    def _step(self, pod: PodId, now: float) -> float | None:
        """The pod's next step, if it is due; returns when to look again (monotonic)."""
        known, habits = self.pods[pod], self.habits
        if known.seen.state is PodState.CREATED:
            due = known.moved_at + habits.start_seconds
            if now < due:
                return due
            known.seen, known.moved_at = replace(known.seen, state=PodState.RUNNING, started_at=time.time()), due
        if known.seen.state is PodState.RUNNING and not known.seen.ready:
            due = known.moved_at + habits.ready_seconds
            if now < due:
                return due
            if known.order.type is ProcType.ONESHOT:
                known.seen = replace(known.seen, state=PodState.EXITED, exit_code=0)
            else:
                known.seen = replace(known.seen, ready=True, ready_at=time.time())
        if known.seen.state is PodState.STOPPING:
            due = known.moved_at + habits.stop_seconds
            if now < due:
                return due
            self._free.append(known.seen.address)
            del self.pods[pod]
        return None

    async def _tell(self) -> None:
        """Make ``observed`` equal to what it would see, in as few transactions as etcd takes."""
        family = Records(self.store, keys.OBSERVED, Observed)
        wanted = {pod: known.seen for pod, known in self.pods.items()}
        writes: list[Write] = [
            family.put_op(seen, self.node, str(pod)) for pod, seen in wanted.items() if self._written.get(pod) != seen
        ]
        writes += [family.delete_op(self.node, str(pod)) for pod in self._written if pod not in wanted]
        for batch in _batches(writes):
            await self.store.txn([], batch)
        self._written = wanted


def _batches(writes: list[Write]) -> Iterator[list[Write]]:
    for start in range(0, len(writes), BATCH):
        yield writes[start : start + BATCH]
