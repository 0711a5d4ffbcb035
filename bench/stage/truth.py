"""What etcd holds, read with root's certificate from outside: the truth that a proof judges by. And the API a person would use.

A thread with an event loop of its own, so that proofs stay plain code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from bench.stage.node import Node
from lain_cli.config import Config, Phase
from lain_sdk.client import Console
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.etcd import EtcdStore
from lain_shared.keys import Family
from lain_shared.model.app import App, HistoryRecord, Operation
from lain_shared.model.node import NodeState
from lain_shared.model.pod import Assignment, Desired, Observed
from lain_shared.model.route import Endpoints, HostClaim, RouteClaim, RouterState
from lain_shared.model.status import ProcStatus
from lain_shared.records import Records
from lain_shared.store import Change, Entry
from tests.fixtures.cluster import LocalCluster

T = TypeVar("T")
KINDS: Mapping[Family, type[Any]] = {
    keys.APPS: App, keys.OPERATIONS: Operation, keys.HISTORY: HistoryRecord, keys.DESIRED: Desired, keys.HOSTS: HostClaim,
    keys.ROUTES: RouteClaim, keys.NODES_STATE: NodeState, keys.OBSERVED: Observed, keys.ASSIGN: Assignment,
    keys.ENDPOINTS: Endpoints, keys.STATUS: ProcStatus, keys.ROUTERS: RouterState,
}  # fmt: skip
CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One change of a key. ``at``: unix seconds when we heard of it."""

    at: float
    change: Change


@dataclass(frozen=True, slots=True)
class Picture:
    """Every key at one revision."""

    revision: int
    entries: Mapping[str, Entry]

    def all(self, family: Family) -> dict[str, tuple[Any, Entry]]:
        """Key (without the family's prefix) → noun and entry."""
        kind = KINDS[family]
        records = Records(_NO_STORE, family, kind)
        return {
            key.removeprefix(family.prefix): (records.decode(key, entry.value), entry)
            for key, entry in self.entries.items()
            if key.startswith(family.prefix)
        }

    def keys(self, family: Family) -> frozenset[str]:
        return frozenset(key.removeprefix(family.prefix) for key in self.entries if key.startswith(family.prefix))


_NO_STORE: Any = None


@dataclass(slots=True)
class Truth:
    """``seen``: every change under ``/lain/`` since it began, in order. ``address``: the node's."""

    address: str
    seen: list[Seen] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _store: EtcdStore | None = None
    _console: Console | None = None

    @classmethod
    @contextlib.contextmanager
    def of(cls, cluster: LocalCluster, node: Node) -> Iterator[Truth]:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # etcd goes on purpose
        address = node.sh("ip -4 -o address show dev eth0 | awk '{print $4}' | cut -d/ -f1")
        truth = cls(address)
        thread = threading.Thread(target=truth._loop.run_forever, daemon=True)
        thread.start()
        with tempfile.TemporaryDirectory(prefix="lain-truth-") as folder:
            for name in ("ca", "cert", "key"):
                Path(folder, f"{name}.pem").write_text(node.run("cat", f"/etc/lain/tls/root/{name}.pem") + "\n")
            phase = Config(cluster.environ).phase(cluster.name)
            ending = asyncio.Event()
            started = threading.Event()
            running = asyncio.run_coroutine_threadsafe(truth._live(Path(folder), phase, started, ending), truth._loop)
            started.wait(30)
            try:
                yield truth
            finally:
                truth._loop.call_soon_threadsafe(ending.set)
                with contextlib.suppress(Exception):
                    running.result(10)
                truth._loop.call_soon_threadsafe(truth._loop.stop)
                thread.join(10)

    async def _live(self, tls_dir: Path, phase: Phase, started: threading.Event, ending: asyncio.Event) -> None:
        async with (
            EtcdStore.connect((f"{self.address}:2379",), tls_dir=tls_dir) as store,
            Console(phase.console, token=phase.token, ca=Path(phase.ca)) as api,
        ):
            self._store, self._console = store, api
            watching = asyncio.create_task(self._watch((await store.list(keys.ROOT)).revision + 1))
            started.set()
            await ending.wait()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, revision: int) -> None:
        assert self._store is not None
        while True:
            try:
                async for changes in self._store.watch(keys.ROOT, start_revision=revision):
                    now = time.time()
                    self.seen.extend(Seen(now, change) for change in changes.items)
                    if changes.items:
                        revision = changes.revision + 1
            except LainError:
                await asyncio.sleep(0.1)

    def wait(self, work: Coroutine[Any, Any, T], seconds: float = CALL_SECONDS) -> T:
        """Run a coroutine in our loop to its end."""
        return asyncio.run_coroutine_threadsafe(_bounded(work, seconds), self._loop).result(seconds + 5)

    def begin(self, work: Coroutine[Any, Any, T]) -> Callable[[float], T]:
        """Begin it, and return what waits for its end, that many seconds at most."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result

    def ask(self, call: Callable[[Console], Awaitable[T]], seconds: float = CALL_SECONDS) -> T:
        """One call of the console's API."""
        return self.wait(self.asking(call), seconds)

    async def asking(self, call: Callable[[Console], Awaitable[T]]) -> T:
        assert self._console is not None
        return await call(self._console)

    def picture(self) -> Picture:
        """Everything, at one revision. Raises ``LainError`` while etcd is away."""
        assert self._store is not None
        listing = self.wait(self._store.list(keys.ROOT))
        return Picture(listing.revision, {entry.key: entry for entry in listing.entries})

    @property
    def store(self) -> EtcdStore:
        assert self._store is not None
        return self._store


async def _bounded(work: Coroutine[Any, Any, T], seconds: float) -> T:
    async with asyncio.timeout(seconds):
        return await work
