"""Start, serve, stop: the only place that knows of signals.

Stopping has one order: not ready; each part ends the pass in hand and begins no other (a leader's ``stop`` gives its leadership up); after
``grace_seconds``, cancel; drain HTTP; then the ``lasting`` parts (a node's presence: it is not away because its agent is being replaced);
clients are closed by the context that built the daemon. A background part
that returns though nobody asked it to is a bug and takes the process down, for its supervisor to restart.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import NoReturn

import structlog
from aiohttp import web

from lain_shared.errors import LainError
from lain_shared.http_runner import Runner
from lain_shared.http_server import Probes
from lain_shared.log import configure
from lain_shared.loop import Loop, Part

log = structlog.get_logger()

STUCK_SECONDS = 120.0
"""A loop whose next pass should have ended this long ago is stuck."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A built daemon, ready to run. ``parts`` start in this order and stop in the reverse; ``lasting`` ones start and stop last."""

    name: str
    parts: Sequence[Part]
    app: web.Application | None = None
    listen: str = "127.0.0.1"
    port: int = 0
    ssl_context: ssl.SSLContext | None = None
    grace_seconds: float = 10.0
    """How long parts may take to end the pass in hand."""
    http_grace_seconds: float = 5.0
    """How long requests in flight may take to end; then they, and all open streams, are cancelled."""
    lasting: Sequence[Part] = ()
    on_listening: Callable[[int], None] = field(default=lambda _port: None)
    """Told the port that was bound (``port=0`` takes a free one)."""


class Health:
    """Readiness and liveness out of the parts themselves. ``parts`` is filled while the daemon is being built."""

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self.parts: list[Part] = list(parts)
        self.stopping = False
        self._began = time.monotonic()

    @property
    def probes(self) -> Probes:
        return Probes(ready=self.not_ready, live=self.not_live)

    def not_ready(self) -> Mapping[str, str]:
        """Part → why it is not ready."""
        if self.stopping:
            return {"daemon": "stopping"}
        return {part.name: getattr(part, "why_not_ready", "") or "not ready" for part in self.parts if not part.ready}

    def not_live(self) -> Mapping[str, str]:
        """Loop → for how long it has ended no pass. A restart brings no etcd back: a failing loop is alive; so is one that rests."""
        now = time.monotonic()
        return {
            part.name: f"ended no pass for {now - (part.last_ended or self._began):.0f} s"
            for part in self.parts
            if isinstance(part, Loop) and now - max(part.due_at, self._began) > STUCK_SECONDS
        }


class PartEnded(LainError):
    """A background part returned though nobody asked it to stop."""

    code = "part_ended"


async def run_daemon(daemon: Daemon, *, health: Health | None = None, stop: asyncio.Event | None = None) -> None:
    """Run until SIGTERM or SIGINT (or ``stop`` is set, for tests), or until a part fails."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop.set)
            caught.append(number)
        except (NotImplementedError, RuntimeError):  # not in the main thread: a test ends us by ``stop``
            break
    runner = await _listen(daemon)
    tasks = {asyncio.create_task(part.run(), name=part.name): part for part in (*daemon.parts, *daemon.lasting)}
    stopping = asyncio.create_task(stop.wait(), name="stop")
    log.info("daemon_started", daemon=daemon.name, port=daemon.port, parts=[part.name for part in tasks.values()])
    try:
        done, _ = await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task in done]
        if ended and not stop.is_set():
            cause = asyncio.CancelledError() if ended[0].cancelled() else ended[0].exception()
            raise PartEnded(f"{ended[0].get_name()} ended although nobody asked it to") from cause
    finally:
        if health is not None:
            health.stopping = True
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        lasting = {task: part for task, part in tasks.items() if part in daemon.lasting}
        await _stop_parts({task: part for task, part in tasks.items() if task not in lasting}, daemon.grace_seconds)
        if runner is not None:
            await runner.cleanup()
        await _stop_parts(lasting, daemon.grace_seconds)
        for number in caught:
            loop.remove_signal_handler(number)
        log.info("daemon_stopped", daemon=daemon.name)


async def _listen(daemon: Daemon) -> web.AppRunner | None:
    if daemon.app is None:
        return None
    runner = Runner(daemon.app, grace_seconds=daemon.http_grace_seconds)
    await runner.setup()
    site = web.TCPSite(runner, daemon.listen, daemon.port, ssl_context=daemon.ssl_context)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise LainError(
            f"{daemon.name} cannot listen on {daemon.listen}:{daemon.port}", why=error.strerror or str(error),
            next="free the port, or set another one", code="cannot_listen",
        ) from error  # fmt: skip
    daemon.on_listening(runner.addresses[0][1])
    return runner


async def _stop_parts(tasks: Mapping[asyncio.Task[None], Part], grace_seconds: float) -> None:
    for part in reversed(tuple(tasks.values())):
        part.stop()
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=grace_seconds)
    for task in late:
        log.warning("part_cancelled", part=task.get_name(), grace_seconds=grace_seconds)
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for task, result in zip(tasks, results, strict=True):
        if isinstance(result, Exception):
            log.error("part_failed", part=task.get_name(), exc_info=result)


def main(
    service: str, build: Callable[[Health], AbstractAsyncContextManager[Daemon]], *, log_level: str = "info"
) -> NoReturn:
    """The ``main()`` of every daemon: run what ``build`` yields; a failure LAIN understands ends in one line, exit code 1."""
    configure(service, log_level)

    async def run() -> None:
        health = Health()
        async with build(health) as daemon:
            if not health.parts:
                health.parts.extend((*daemon.parts, *daemon.lasting))
            gc.collect()
            gc.freeze()  # what is here now stays for good: no collection needs to look at it again
            await run_daemon(daemon, health=health)

    try:
        asyncio.run(run())
    except LainError as error:
        log.error("daemon_failed", code=error.error_code, error=error.message, why=error.why, next=error.next)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
