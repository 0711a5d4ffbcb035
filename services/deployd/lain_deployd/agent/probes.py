"""Probing pods from this node, and nobody else does: readiness, startup and liveness, over HTTP, TCP or a command inside.

``Verdicts`` is the pure part: what a row of answers means. The rest asks.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import aiohttp
import structlog

from lain_deployd.agent.engine import Engine, EngineUnavailable
from lain_deployd.agent.plan import ALIVE
from lain_deployd.agent.pods import View
from lain_shared.errors import LainError
from lain_shared.model.pod import PodId, Probe, ProbeKind, ProcType
from lain_shared.stopping import together

log = structlog.get_logger()

UNTIL_READY_SECONDS = 0.1
COSTLY_UNTIL_READY_SECONDS = 1.0
"""A command inside costs the Engine three calls and a process: less often."""
SETTLED_AFTER_SECONDS = 60.0
"""What is not ready for this long is asked once a second."""
CRASHED_SECONDS = 1.0
TICK_SECONDS = 1.0
"""Pods that rest are asked at whole ticks, and so together: to wake for one of them costs more than to ask ten."""
MAX_TEXT = 500
"""An answer that is no HTTP is quoted by who reads it, all of it; the text goes into the store."""
RUNNING_IS_READY_SECONDS = 2.0
"""A pod without a probe and without a port is ready when it ran this long."""


@dataclass(frozen=True, slots=True)
class Target:
    """One run of one pod: a new run (``started_at``) is a new target."""

    pod: PodId
    container: str
    started_at: float
    address: str
    readiness: Probe | None = None
    liveness: Probe | None = None
    startup: Probe | None = None
    port: int | None = None
    ready: bool = False
    """As remembered from before this agent: it counts until probes say otherwise."""

    @property
    def run(self) -> tuple[str, float]:
        return self.container, self.started_at


def target_of(view: View) -> Target | None:
    """What is to be probed of a pod now; None: nothing, for it does not run, shall not, or is there to end and not to be ready."""
    order, container = view.order, view.container
    if order is None or not order.assignment.run or order.assignment.type is ProcType.ONESHOT:
        return None
    if container is None or container.state not in ALIVE or container.started_at is None:
        return None
    template, health = order.assignment.template, view.health_now
    return Target(
        pod=view.pod,
        container=container.id,
        started_at=container.started_at,
        address=container.address,
        readiness=template.readiness,
        liveness=template.liveness,
        startup=template.startup,
        port=template.port,
        ready=health is not None and health.ready,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What one probe got. ``text``: in words, why not (or what was answered)."""

    good: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row of answers to one probe, counted."""

    holds: bool
    goods: int = 0
    bads: int = 0
    text: str = ""

    def after(self, answer: Answer | None, probe: Probe) -> Verdict:
        """``holds`` turns true after ``successes`` good answers in a row, false after ``failures`` bad ones; None changes nothing."""
        if answer is None:
            return self
        if answer.good:
            goods = self.goods + 1
            return Verdict(self.holds or goods >= probe.successes, goods, 0, "")
        bads = self.bads + 1
        return Verdict(self.holds and bads < probe.failures, 0, bads, answer.text)


class Prober:
    """Background part: one task a pod that runs. ``on_ready(target, ready, text)``, ``on_restart(target, text)`` tell what came of it."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float],
        on_ready: Callable[[Target, bool, str], None],
        on_restart: Callable[[Target, str], None],
    ) -> None:
        self.name = "probes"
        self._ask = Asker(engine)
        self._clock = clock
        self._on_ready = on_ready
        self._on_restart = on_restart
        self._tasks: dict[PodId, tuple[Target, asyncio.Task[None]]] = {}
        self._stopped = asyncio.Event()
        self.ready = True

    def follow(self, targets: Mapping[PodId, Target]) -> None:
        """Probe exactly these from now on."""
        if self._stopped.is_set():
            return
        for pod, (known, task) in list(self._tasks.items()):
            wanted = targets.get(pod)
            if wanted is None or replace(wanted, ready=known.ready) != known:
                task.cancel()
                del self._tasks[pod]
        for pod, target in targets.items():
            if pod not in self._tasks:
                self._tasks[pod] = (target, asyncio.create_task(self._probe(target), name=f"probe {pod}"))

    async def run(self) -> None:
        try:
            await self._stopped.wait()
        finally:
            tasks = [task for _, task in self._tasks.values()]
            self._tasks.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._ask.close()

    def stop(self) -> None:
        self._stopped.set()

    async def _probe(self, target: Target) -> None:
        while True:
            try:
                return await self._follow_one(target)
            except (
                Exception
            ) as error:  # a fault of ours in one pod's probe must not silence the others, nor this one for good
                log.error("probe_crashed", pod=str(target.pod), exc_info=error)
            await asyncio.sleep(CRASHED_SECONDS)

    async def _follow_one(self, target: Target) -> None:
        if target.startup is not None and not target.ready:
            await self._wait_started(target, target.startup)
        watches = [self._watch_readiness(target)]
        if target.liveness is not None:
            watches.append(self._watch_liveness(target, target.liveness))
        await together(*watches)

    async def _wait_started(self, target: Target, probe: Probe) -> None:
        verdict = Verdict(False)
        while True:
            verdict = verdict.after(await self._ask(target, probe), probe)
            if verdict.holds:
                return
            self._on_ready(target, False, f"startup: {verdict.text}")
            if verdict.bads == probe.failures:
                self._on_restart(target, f"startup probe failed {verdict.bads} times: {verdict.text}")
            await asyncio.sleep(probe.interval_seconds)

    async def _watch_readiness(self, target: Target) -> None:
        probe = target.readiness
        if probe is None and target.port:
            probe = Probe(ProbeKind.TCP, port=target.port)
        if probe is None:
            ran = max(0.0, self._clock() - target.started_at)  # not less: the clock may have been set back
            await asyncio.sleep(max(0.0, RUNNING_IS_READY_SECONDS - ran))
            self._on_ready(target, True, "")
            return
        verdict = Verdict(target.ready)
        told: tuple[bool, str] | None = None
        while True:
            verdict = verdict.after(await self._ask(target, probe), probe)
            found = (verdict.holds, "" if verdict.holds else f"readiness: {verdict.text}")
            if found != told:
                told = found
                self._on_ready(target, *found)
            await pause(self._pause(target, probe, verdict))

    def _pause(self, target: Target, probe: Probe, verdict: Verdict) -> float:
        if verdict.holds:
            return probe.interval_seconds
        costly = probe.kind is ProbeKind.EXEC
        settled = self._clock() - target.started_at > SETTLED_AFTER_SECONDS
        often = COSTLY_UNTIL_READY_SECONDS if costly or settled else UNTIL_READY_SECONDS
        return min(often, probe.interval_seconds)

    async def _watch_liveness(self, target: Target, probe: Probe) -> None:
        verdict = Verdict(True)
        while True:
            await pause(probe.interval_seconds)
            verdict = verdict.after(await self._ask(target, probe), probe)
            if not verdict.holds:
                self._on_restart(target, f"liveness probe failed {verdict.bads} times: {verdict.text}")
                verdict = Verdict(True)


class Asker:
    """Asks one probe once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, target: Target, probe: Probe) -> Answer | None:
        """None: the question could not be put, which says nothing about the pod."""
        kinds: dict[ProbeKind, Callable[[Target, Probe], Awaitable[Answer | None]]] = {
            ProbeKind.HTTP: self._http,
            ProbeKind.TCP: self._tcp,
            ProbeKind.EXEC: self._exec,
        }
        answer = await kinds[probe.kind](target, probe)
        return (
            answer
            if answer is None or len(answer.text) <= MAX_TEXT
            else replace(answer, text=answer.text[:MAX_TEXT] + " …")
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _http(self, target: Target, probe: Probe) -> Answer:
        url = f"http://{target.address}:{probe.port or target.port or 80}{probe.path}"
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, headers={"User-Agent": "lain-probe"}
            )
        timeout = aiohttp.ClientTimeout(total=probe.timeout_seconds)
        try:
            async with self._session.get(url, timeout=timeout, allow_redirects=False) as answer:
                return Answer(200 <= answer.status < 400, f"GET {url} answered {answer.status}")
        except TimeoutError:
            return Answer(False, f"GET {url} took longer than {probe.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(False, f"GET {url}: {_words(error)}")

    async def _tcp(self, target: Target, probe: Probe) -> Answer:
        port = probe.port or target.port or 0
        try:
            async with asyncio.timeout(probe.timeout_seconds):
                await _connect(target.address, port)
        except TimeoutError:
            return Answer(False, f"TCP {target.address}:{port} took longer than {probe.timeout_seconds:g} s")
        except OSError as error:
            return Answer(False, f"TCP {target.address}:{port}: {_words(error)}")
        return Answer(True)

    async def _exec(self, target: Target, probe: Probe) -> Answer | None:
        shown = " ".join(probe.command)
        try:
            told = await self._engine.run(target.container, probe.command, probe.timeout_seconds)
        except TimeoutError:
            return Answer(False, f"{shown!r} took longer than {probe.timeout_seconds:g} s")
        except EngineUnavailable:
            return None
        except LainError as error:
            return Answer(False, f"{shown!r} cannot be run: {error.why or error.message}")
        said = f": {told.output[-200:]}" if told.output else ""
        return Answer(told.exit_code == 0, f"{shown!r} exited with {told.exit_code}{said}")


async def pause(seconds: float, tick_seconds: float = TICK_SECONDS) -> None:
    """Sleep that long; where it is several ticks, until the last tick before: then all who wait for that one go on at once."""
    if seconds < 4 * tick_seconds:
        await asyncio.sleep(seconds)
        return
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    at = (loop.time() + seconds) // tick_seconds * tick_seconds
    timer = loop.call_at(at, lambda: None if woken.done() else woken.set_result(None))
    try:
        await woken
    finally:
        timer.cancel()


async def _connect(address: str, port: int) -> None:
    """Connect, and close at once; ``OSError`` when nobody takes it.

    A pod is on this machine: its answer is mostly there when the call returns, and asking again says so. Streams, and even waiting, cost
    more than all the rest of a probe, and there are ten a second where a hundred pods rest.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        for _ in range(2):
            code = connection.connect_ex((address, port))
            if code in (0, errno.EISCONN):
                return
            if code not in (errno.EINPROGRESS, errno.EALREADY):
                raise OSError(code, os.strerror(code))
        await asyncio.get_running_loop().sock_connect(connection, (address, port))


def _words(error: BaseException) -> str:
    """An error in the kernel's words, without what aiohttp and asyncio make of them."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    return (str(cause) or type(cause).__name__).lower()
