"""A node's agent and a router, as far as the controller can tell: they read their families from the store and answer in theirs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import dataclass, field, replace

from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.model.node import Alive, Node, NodeState
from lain_shared.model.pod import Assignment, Observed, PodState
from lain_shared.model.route import Endpoints, RouterMember, RouterState
from lain_shared.records import Records
from lain_shared.store import Store

LOOK_SECONDS = 0.01
_ADDRESSES = itertools.count(1)


class _Part:
    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(LainError):  # the store is away: look again
                await self.look()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stopped.wait()
            except TimeoutError:
                continue

    def stop(self) -> None:
        self._stopped.set()

    async def look(self) -> None:
        raise NotImplementedError


class FakeAgent(_Part):
    """Runs whatever it is told to; images that begin with ``bad`` never get ready, ``crash`` exits at once."""

    def __init__(self, store: Store, node: str) -> None:
        super().__init__()
        self.node = node
        self._store = store
        self._assign = Records(store, keys.ASSIGN, Assignment)
        self._observed = Records(store, keys.OBSERVED, Observed)
        self.started: list[str] = []
        self.stopped: list[str] = []

    async def join(self, memory_bytes: int = 1 << 30) -> None:
        node = Node(self.node, "10.0.0.1")
        state = NodeState(self.node, 4, memory_bytes, 0, 10**10, 10**10, "20.10")
        alive = Alive(self.node, "https://127.0.0.1:1", "engine", "boot", time.time())
        await Records(self._store, keys.NODES, Node).put(node, self.node)
        await Records(self._store, keys.NODES_STATE, NodeState).put(state, self.node)
        await Records(self._store, keys.ALIVE, Alive).put(alive, self.node)

    async def vanish(self) -> None:
        self.stop()
        await self._store.delete(keys.ALIVE.key(self.node))

    async def look(self) -> None:
        orders = {keys.ASSIGN.parse(s.entry.key)[1]: s for s in await self._assign.list(self.node)}
        known = {keys.OBSERVED.parse(s.entry.key)[1]: s.value for s in await self._observed.list(self.node)}
        for pod, stored in orders.items():
            if stored.value.run:
                await self._run(pod, stored.value, stored.entry.mod_revision, known.get(pod))
        for pod in known:
            if pod not in orders or not orders[pod].value.run:
                self.stopped.append(pod)
                await self._observed.delete(self.node, pod)

    async def _run(self, pod: str, order: Assignment, revision: int, seen: Observed | None) -> None:
        if seen is None:
            self.started.append(pod)
            number = next(_ADDRESSES)
            seen = Observed(
                order.app, order.proc, order.instance, order.generation, PodState.RUNNING, revision,
                address=f"172.20.{number // 250}.{number % 250 + 1}", started_at=time.time(),
            )  # fmt: skip
            await self._observed.put(seen, self.node, pod)
            return
        image = order.template.image
        if image.startswith("crash"):
            after = replace(seen, state=PodState.BACKOFF, restarts=3, exit_code=1, error="exited with 1")
        elif image.startswith("bad"):
            after = seen
        else:
            after = replace(seen, ready=True, ready_at=seen.ready_at or time.time())
        after = replace(after, assign_revision=revision)
        if after != seen:
            await self._observed.put(after, self.node, pod)


@dataclass
class Served:
    """What a router served at some moment."""

    at: float
    ready: frozenset[str] = field(default_factory=frozenset)


class FakeRouter(_Part):
    """Applies endpoints as soon as it sees them; ``stuck``: no longer."""

    def __init__(self, store: Store, router: str) -> None:
        super().__init__()
        self.router = router
        self.stuck = False
        self.table: dict[str, Endpoints] = {}
        self.history: list[Served] = []
        self._store = store
        self._endpoints = Records(store, keys.ENDPOINTS, Endpoints)
        self._routers = Records(store, keys.ROUTERS, RouterState)

    async def join(self) -> None:
        await Records(self._store, keys.ROUTER_MEMBERS, RouterMember).put(
            RouterMember(self.router, "n1", time.time()), self.router
        )

    async def look(self) -> None:
        if self.stuck:
            return
        listing = await self._store.list(keys.ENDPOINTS.prefix)
        table = {e.key: self._endpoints.decode(e.key, e.value) for e in listing.entries}
        if table != self.table or not self.history:
            self.table = table
            ready = frozenset(e.address for ep in table.values() for e in ep.ready)
            self.history.append(Served(time.time(), ready))
            await self._routers.put(RouterState(self.router, listing.revision, "boot", time.time()), self.router)
