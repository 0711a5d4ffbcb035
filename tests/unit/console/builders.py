"""Releases, apps and procs for the console's unit tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry

from lain_console.metrics import Metrics
from lain_console.operations.claims import plan_claims
from lain_console.operations.driver import Driver
from lain_console.operations.start import Intent, Starter
from lain_console.state import Scene, State
from lain_shared.errors import LeaseLost
from lain_shared.lease import LeaseKeeper
from lain_shared.model.app import App, HistoryRecord, Operation, OperationKind, OperationPhase, Outcome, Release
from lain_shared.model.node import Alive, Node, NodeState
from lain_shared.model.pod import Desired, PodTemplate, ProcType
from lain_shared.model.route import Route
from lain_shared.store import Store
from lain_shared.testing import ManualClock
from tests.fixtures.controller import FakeController

MIB = 1024 * 1024


def proc(name: str, release: int = 1, kind: ProcType = ProcType.WORKER, **more: Any) -> Desired:
    version = f"{release}-abc"
    template = PodTemplate(
        f"hello@sha256:{release:064x}", env={"LAIN_APP_RELEASE_VERSION": version}, **more.pop("template", {})
    )
    return Desired("hello", name, kind, release, template, more.pop("instances", 1), **more)


def web(release: int = 1, *routes: str, **more: Any) -> Desired:
    hosts = routes or ("hello.lain.localhost",)
    given = tuple(Route(*_split(route)) for route in hosts)
    return proc("web", release, ProcType.WEB, routes=given, **more)


def _split(route: str) -> tuple[str, str]:
    host, slash, path = route.partition("/")
    return host, f"/{path}" if slash else "/"


def release_of(number: int, *procs: Desired, parent: int | None = None, **more: Any) -> Release:
    return Release("hello", number, f"{number}-abc", "", procs, more.pop("env", {}), 0.0, "ann", parent=parent, **more)


@dataclass
class FixedLease(LeaseKeeper):
    """A lease that a test grants and ends by hand."""

    def __init__(self) -> None:
        self.id = 0

    @property
    def lease_id(self) -> int:
        if not self.id:
            raise LeaseLost("no lease")
        return self.id


@dataclass
class Bench:
    """One app ``hello`` in a store, consoles that drive it, a controller that acts; all stepped by hand."""

    store: Store
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.state = State(self.store)
        self.controller = FakeController(self.store, now=self.clock)

    async def register(self, **more: Any) -> None:
        await self.state.apps.put(App("hello", "ann", 0.0, **more), "hello")

    async def make_node(self) -> None:
        """A node with room for everything."""
        await self.state.nodes.put(Node("n1", "10.0.0.1"), "n1")
        await self.state.alive.put(Alive("n1", "", "", "", 0.0), "n1")
        await self.state.node_states.put(NodeState("n1", 4, 1 << 34, 0, 1, 1, "20.10"), "n1")

    async def console(self, name: str = "c1", store: Store | None = None) -> Console:
        lease = FixedLease()
        lease.id = (await self.store.grant(5)).id
        return Console(self, name, lease, State(store or self.store))

    async def run(self, console: Console, passes: int = 40) -> HistoryRecord | None:
        """Step controller and console until the operation ended; None if it has not after so many passes."""
        for _ in range(passes):
            await self.controller.one_pass()
            await console.driver.one_pass()
            if await self.state.operations.get("hello") is None:
                return await self.last()
        return None

    async def last(self) -> HistoryRecord:
        return (await self.state.history.list("hello"))[-1].value

    async def app(self) -> App:
        return (await self.state.app("hello")).value

    async def wanted(self) -> dict[str, Desired]:
        return {stored.value.proc: stored.value for stored in await self.state.desired.list("hello")}

    async def operation(self) -> Operation | None:
        stored = await self.state.operations.get("hello")
        return stored.value if stored is not None else None


class Console:
    """A replica: it starts operations and drives them."""

    def __init__(self, bench: Bench, name: str, lease: FixedLease, state: State) -> None:
        self.bench, self.lease = bench, lease
        metrics = Metrics(CollectorRegistry())
        self.driver = Driver(state, lease, name, metrics, now=bench.clock, clock=bench.clock)
        self.starter = Starter(state, self.driver, name, now=bench.clock)

    async def deploy(self, release: Release, *, replace_running: bool = False, who: str = "ann") -> Operation:
        """Start a deploy of ``release`` (its number is set to the next one)."""

        async def plan(scene: Scene) -> Intent:
            number = scene.app.value.last_release + 1
            procs = tuple(replace(each, release=number) for each in release.procs)
            parent = scene.operation.value.parent if scene.operation is not None else scene.app.value.release
            made = replace(release, number=number, procs=procs, parent=parent)
            hosts = {route.host for each in procs for route in each.routes}
            claims = plan_claims("hello", procs, await self.bench.state.claims_on(hosts))
            return Intent(
                OperationKind.DEPLOY,
                OperationPhase.ONESHOTS,
                number,
                "deploy",
                new_release=made,
                expectations=claims.expectations,
                writes=claims.writes,
            )

        self.bench.clock.advance(1)
        operation = await self.starter.start("hello", who, plan, replace_running=replace_running)
        assert operation is not None
        return operation


def second(*procs: str) -> Release:
    """A second release: web again, and these workers."""
    return release_of(2, web(2), *(proc(name, 2) for name in procs))


async def deployed(bench: Bench, console: Console, release: Release | None = None) -> None:
    """Release 1 runs."""
    await bench.register()
    await console.deploy(release or release_of(1, web(1), proc("old", 1)))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED, record
