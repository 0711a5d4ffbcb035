"""``Loop``: run a pass, again and again. Level, not edge: a wake-up carries no data, a pass reads everything afresh."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from lain_shared.errors import LainError

log = structlog.get_logger()

MAX_REST_SECONDS = 0.1
"""However much a pass had to do: what changes is looked at again within this."""


class Part(Protocol):
    """A background part of a daemon. ``run`` is eternal: returning although nobody called ``stop`` is a bug."""

    name: str

    @property
    def ready(self) -> bool:
        """It has what it needs and does its work."""

    async def run(self) -> None: ...

    def stop(self) -> None:
        """End the pass in hand and begin no other; ``run`` then returns. Safe to call twice."""


class LoopMetrics:
    """Passes of all loops of one daemon, by loop and outcome."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.passes = Counter("lain_loop_passes_total", "Passes of a loop.", ["loop", "outcome"], registry=registry)
        self.seconds = Histogram("lain_loop_pass_seconds", "How long a pass took.", ["loop"], registry=registry)


class Loop:
    """Runs ``one_pass`` when woken and every ``resync_seconds``; backs off (jittered, ≤ ``max_backoff_seconds``) while passes fail.

    A pass may return the seconds after which it wants to look again (None: the resync is soon enough).

    ``duty``: the share of this process's time that passes may take however often they are woken. A pass that used the processor for a
    while is followed by a rest in proportion (at most ``MAX_REST_SECONDS``); what wakes it meanwhile is seen by the one pass after that.
    So one change is looked at at once, and many in a row by few passes.
    """

    def __init__(
        self,
        name: str,
        one_pass: Callable[[], Awaitable[float | None]],
        *,
        resync_seconds: float = 30.0,
        max_backoff_seconds: float = 5.0,
        duty: float = 1.0,
        metrics: LoopMetrics | None = None,
    ) -> None:
        self.name = name
        self._duty = duty
        self._one_pass = one_pass
        self._resync_seconds = resync_seconds
        self._max_backoff_seconds = max_backoff_seconds
        self._metrics = metrics or LoopMetrics()
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures = 0
        self.last_ended: float | None = None
        """Monotonic time at which the last pass, good or bad, ended: the question of liveness."""
        self.due_at = 0.0
        """Monotonic time at which the pass in hand began, or the next one begins if nothing wakes it before."""
        self.last_success: float | None = None
        self.last_error = ""
        for outcome in ("ok", "failed"):
            self._metrics.passes.labels(name, outcome)

    @property
    def ready(self) -> bool:
        return self.last_success is not None and self._failures < 3

    @property
    def why_not_ready(self) -> str:
        if self.ready:
            return ""
        return self.last_error or "has not had a good pass yet"

    def wake(self) -> None:
        """Something changed: look again soon. Cheap, callable from anywhere in the event loop."""
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    async def run(self) -> None:
        while not self._stopped.is_set():
            self._woken.clear()  # before the pass: what changes during it must wake us again
            began, used = time.monotonic(), time.thread_time()
            self.due_at = began
            again: float | None = None
            try:
                again = await self._one_pass()
            except Exception as error:  # the one broad catch of the house: a loop outlives any pass
                self._failures += 1
                self._note(error)
                self._metrics.passes.labels(self.name, "failed").inc()
            else:
                self._recover()
                self._metrics.passes.labels(self.name, "ok").inc()
            self.last_ended = time.monotonic()
            self._metrics.seconds.labels(self.name).observe(self.last_ended - began)
            if self._failures:
                await wait_at_most(self._backoff(), self._stopped)  # events do not hurry a back-off
            else:
                rest = self._rest(time.thread_time() - used)
                if rest > 0.0:
                    await wait_at_most(rest, self._stopped)
                wait = self._resync_seconds if again is None else min(again, self._resync_seconds)
                self.due_at = self.last_ended + wait
                await wait_at_most(wait - rest, self._woken)

    def _rest(self, used_seconds: float) -> float:
        """For how long nothing wakes it, after a pass that used the processor for so long."""
        return min(used_seconds * (1.0 / self._duty - 1.0), MAX_REST_SECONDS)

    def _backoff(self) -> float:
        limit = min(0.1 * 2.0 ** min(self._failures, 16), self._max_backoff_seconds)
        return limit * (0.5 + random.random() / 2)  # noqa: S311 - jitter, not a secret

    def _recover(self) -> None:
        if self._failures:
            log.info("loop_recovered", loop=self.name, failures=self._failures)
        self._failures, self.last_error, self.last_success = 0, "", time.monotonic()

    def _note(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        if isinstance(error, LainError):
            if self._failures in (1, 10) or self._failures % 100 == 0:  # once an episode, then rarely
                log.warning(
                    "pass_failed", loop=self.name, failures=self._failures, code=error.error_code, error=self.last_error
                )
        else:
            log.error("pass_crashed", loop=self.name, failures=self._failures, exc_info=error)


async def wait_at_most(seconds: float, event: asyncio.Event) -> bool:
    """Wait for ``event``, but no longer than ``seconds``; True if it came."""
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        return False
    return True
