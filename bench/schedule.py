"""Containers created, removed, scaled, replaced and rolled: LAIN beside Swarm mode and the bare Engine API, the same options for all.

A round takes every contender through the same cases in the same order; who is not measured is frozen. "Done" is what the node's own
Engine lists as running, asked every 20 ms: as many containers of the app (of its version) as wanted; for a removal, none.
Fifty are a part of their own, of more and shorter rounds: contenders a few hundredths apart are compared, and a machine's pace
drifts by more than that from one minute to the next.

- ``create N``, ``remove N``: a first deploy and an undeploy; ``scale``: 1 → 30 → 5 instances.
- ``killed``, ``removed``: of ten instances deployed for this round one is killed (SIGKILL by the Engine), another removed by force.
- ``rolling``: another version of those ten, one by one, the new one first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.__main__ import Options
from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.peers import NodeContainer, engine_of, peer_node, quiet
from bench.stage.schedulers import IMAGE, LABEL, VERSION_LABEL, Bare, Lain, Scheduler, Swarm, Victim
from lain_cli.config import Config
from lain_cli.local.docker import Docker
from lain_deployd.adapters import docker_json
from lain_sdk.client import Console
from tests.fixtures.docker import tiny_image

ROUNDS, ROUNDS_OF_FIFTY = 5, 11
POLL_SECONDS = 0.02
CASE_SECONDS = 120.0
BUSY_AT_MOST = 0.12
"""Of this machine's processors, before a case begins: what came before does not count."""
QUIET_SECONDS, QUIET_PATIENCE_SECONDS = 0.5, 15.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many instances in each case."""

    one: int = 1
    ten: int = 10
    fifty: int = 50
    up: int = 30
    down: int = 5

    @property
    def apps(self) -> dict[str, int]:
        """An app for each size, so that its manifest says it."""
        return {"one": self.one, "ten": self.ten, "fifty": self.fifty, "spread": 1}


QUICK = Sizes(ten=3, fifty=8, up=6, down=2)
KILLED, REMOVED = "container killed → replaced", "container removed → replaced"
SWARMS = ("swarm", "swarm tuned")
Listed = list[dict[str, Any]]
Holds = Callable[[Listed], bool]
Order = Callable[[], Coroutine[Any, Any, None]]


async def run(proof: Proof, options: Options) -> None:
    sizes = QUICK if options.quick else Sizes()
    patience_seconds = 2.0 if options.quick else QUIET_PATIENCE_SECONDS
    with stage(proof) as made:
        async with contenders(proof, made, sizes) as who:
            for number in range(options.rounds or (1 if options.quick else ROUNDS_OF_FIFTY)):
                async for one in turns(proof, who, number):
                    await Round(proof, one, sizes, patience_seconds).fifty()
            for number in range(options.rounds or (1 if options.quick else ROUNDS)):
                async for one in turns(proof, who, number):
                    await Round(proof, one, sizes, patience_seconds).others()
    judge(proof, sizes)


async def turns(proof: Proof, who: Sequence[Scheduler], number: int) -> AsyncIterator[Scheduler]:
    """One after the other, the others frozen; nobody is always the first."""
    for turn in range(len(who)):
        one = who[(turn + number) % len(who)]
        for other in who:
            if other is not one:
                other.node.freeze()
        one.node.thaw()
        await one.awake()
        proof.say(f"round {number + 1}: {one.name}")
        yield one


@contextlib.asynccontextmanager
async def contenders(proof: Proof, made: Stage, sizes: Sizes) -> AsyncIterator[list[Scheduler]]:
    """All of them, each on a node of its own, ready for orders."""
    async with contextlib.AsyncExitStack() as stack:
        ours = NodeContainer(made.cluster.container)
        stack.callback(ours.thaw)
        phase = Config(made.cluster.environ).phase(made.cluster.name)
        console = await stack.enter_async_context(Console(phase.console, token=phase.token, ca=Path(phase.ca)))
        proof.say("the apps go to the registry")
        Docker().run("import", "-", IMAGE, data=tiny_image())
        lain = Lain(ours, await stack.enter_async_context(engine_of(ours)), console, made.cluster, made.folder)
        await lain.prepare(sizes.apps)
        found: list[Scheduler] = [lain]
        for name in ("bare", "swarm", "tuned"):
            proof.say(f"a node for {name}")
            node = stack.enter_context(peer_node(name))
            engine = await stack.enter_async_context(engine_of(node))
            peer: Bare | Swarm = Bare(node, engine) if name == "bare" else Swarm(node, engine, tuned=name == "tuned")
            await peer.prepare()
            found.append(peer)
        proof.facts["engine"] = (await lain.engine.call("GET", "version"))["Version"]
        yield found


@dataclass(slots=True)
class Round:
    """One contender through its cases once."""

    proof: Proof
    one: Scheduler
    sizes: Sizes
    patience_seconds: float

    async def fifty(self) -> None:
        await self._create("fifty", self.sizes.fifty)
        await self._remove("fifty", self.sizes.fifty)

    async def others(self) -> None:
        sizes = self.sizes
        await self._create("one", sizes.one)
        await self._remove("one", sizes.one)
        await self._create("ten", sizes.ten)
        await self._lose(KILLED, "ten", sizes.ten, "POST", "containers/{}/kill")
        await self._lose(REMOVED, "ten", sizes.ten, "DELETE", "containers/{}", force=True, v=True)
        rolled = _running(sizes.ten, version="2")
        await self._time(f"rolling update of {sizes.ten}", "ten", lambda: self.one.update("ten"), rolled)
        await self._remove("ten", sizes.ten)
        await self._until("spread", lambda: self.one.deploy("spread", 1), _running(1))
        await self.one.settled("spread")
        for before, after in ((1, sizes.up), (sizes.up, sizes.down)):
            scale = partial(self.one.scale, "spread", after)
            await self._time(f"scale {before} → {after}", "spread", scale, _running(after))
        await self._until("spread", lambda: self.one.undeploy("spread"), _gone)
        await self.one.settled("spread")

    async def _create(self, app: str, count: int) -> None:
        await self._time(f"create {count}", app, lambda: self.one.deploy(app, count), _running(count))

    async def _remove(self, app: str, count: int) -> None:
        await self._time(f"remove {count}", app, lambda: self.one.undeploy(app), _none)
        await self._until(app, _nothing, _gone)  # what is left of it must not burden what comes next

    async def _lose(self, case: str, app: str, count: int, method: str, path: str, **params: Any) -> None:
        """Take one of its containers away, by the Engine, behind the contender's back."""
        victim = Victim(app, (await self.one.engine.listed(f"{LABEL}={app}", running=True))[0]["Id"])
        lost_at = time.time()

        async def lose() -> None:
            await self.one.engine.call(method, path.format(victim.id), **params)  # answers once it has ended

        await self._time(case, app, lambda: self.one.replace(victim), _running(count), first=lose)
        for listed in await self.one.engine.listed(f"{LABEL}={app}", running=True):
            if listed["Id"] == victim.id:
                state = (await self.one.engine.call("GET", f"containers/{victim.id}/json"))["State"]
                assert (docker_json.when(state["StartedAt"]) or 0) > lost_at, (
                    "what was counted is what was there before"
                )

    async def _time(self, case: str, app: str, order: Order, holds: Holds, *, first: Order | None = None) -> None:
        """From the order (and ``first``, which precedes any look) to the first look at the Engine of which ``holds`` is true."""
        busy = await quiet(BUSY_AT_MOST, for_seconds=QUIET_SECONDS, patience_seconds=self.patience_seconds)
        if busy > BUSY_AT_MOST:
            self.proof.case(case).note(f"{self.one.name}: the machine was {100 * busy:.0f} % busy before it")
        used, began = await self.one.node.cpu_seconds(), time.perf_counter()
        if first is not None:
            await first()
        seconds = await self._until(app, order, holds) - began
        self.proof.case(case, "s").add(self.one.name, seconds)
        await self.one.settled(app)
        used = await self.one.node.cpu_seconds() - used
        self.proof.case(f"{case}: the node's processor time", "s").add(self.one.name, used)
        self.proof.say(f"{self.one.name}: {case}: {seconds:.3f} s, processors {used:.2f} s")

    async def _until(self, app: str, order: Order, holds: Holds) -> float:
        """When (by ``time.perf_counter``) it was seen to hold."""
        ordered = asyncio.create_task(order())
        async with asyncio.timeout(CASE_SECONDS):
            while not holds(await self.one.engine.listed(f"{LABEL}={app}", running=False)):
                if ordered.done():
                    ordered.result()
                await asyncio.sleep(POLL_SECONDS)
            seen = time.perf_counter()
            await ordered
        return seen


async def _nothing() -> None:
    """No order."""


def _running(count: int, *, version: str | None = None) -> Holds:
    """So many run and no others, all of that version."""

    def holds(listed: Listed) -> bool:
        there = [one for one in listed if one["State"] == "running"]
        return len(there) == count and (
            version is None or all(o["Labels"].get(VERSION_LABEL) == version for o in there)
        )

    return holds


def _none(listed: Listed) -> bool:
    """None runs."""
    return not any(one["State"] == "running" for one in listed)


def _gone(listed: Listed) -> bool:
    """Nothing is left of any, running or not."""
    return not listed


def judge(proof: Proof, sizes: Sizes) -> None:
    """The targets."""
    for name in (f"create {sizes.fifty}", f"remove {sizes.fifty}"):
        case = proof.case(name)
        case.target("median ≤ 1.15 × bare", case.ratio("bare"), at_most=1.15)
        for peer in SWARMS:
            case.target(f"median ≤ {peer}", case.ratio(peer), at_most=1.0)
    case = proof.case(KILLED)
    case.target("median ≤ 0.65 s", case.median(), at_most=0.65)
    case.target("median ≤ swarm tuned", case.ratio("swarm tuned"), at_most=1.0)
    case = proof.case(f"rolling update of {sizes.ten}")
    case.target("median ≤ 1.3 × bare", case.ratio("bare"), at_most=1.3)
    for peer in SWARMS:
        case.target(f"median < {peer}", case.ratio(peer), at_most=0.999)
