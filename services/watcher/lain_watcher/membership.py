"""That this router exists (``router-members``, for good) and what it has applied (``routers``, on a lease).

The leader counts on every member before it stops a pod. So a router is registered before it first reads ``endpoints``, and a stop or an
upgrade never unregisters it: only an operator does, when it is taken out of service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from lain_shared import keys
from lain_shared.errors import Conflict, LainError
from lain_shared.lease import Presence
from lain_shared.loop import Part
from lain_shared.model.route import RouterMember, RouterState
from lain_shared.records import Records
from lain_shared.stopping import until_stopped
from lain_shared.store import ABSENT, Store

log = structlog.get_logger()

VERIFY_SECONDS = 10.0
"""How often it is checked that the registration still stands: a living router that somebody forgot registers again."""


class Membership:
    """Background part: registers, then keeps ``routers/<id>`` published on a lease until stopped or unregistered."""

    name = "membership"

    def __init__(
        self,
        store: Store,
        router: str,
        node: str,
        report: Callable[[], RouterState],
        *,
        known: asyncio.Event,
        lease_seconds: int,
        state_file: Path | None = None,
    ) -> None:
        self.registered = asyncio.Event()
        """Set from the first registration on: from then on the store may be read."""
        self._store, self._router, self._node = store, router, node
        self._report, self._known = report, known
        self._lease_seconds, self._state_file = lease_seconds, state_file
        self._members = Records(store, keys.ROUTER_MEMBERS, RouterMember)
        self._states = Records(store, keys.ROUTERS, RouterState)
        self._presence: Presence | None = None
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._writing = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._trouble = ""
        self._failures = 0

    @property
    def ready(self) -> bool:
        return self._presence is not None and self._presence.ready

    @property
    def why_not_ready(self) -> str:
        if not self._wanted.is_set():
            return "unregistered by an operator"
        return (
            ""
            if self.ready
            else self._trouble or (self._presence.why_not_ready if self._presence else "not registered yet")
        )

    @property
    def is_wanted(self) -> bool:
        return self._wanted.is_set()

    def wake(self) -> None:
        """What is published changed."""
        if self._presence is not None:
            self._presence.wake()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        await until_stopped(self._stopped, self._keep())

    async def unregister(self) -> None:
        """Take this router out of the cluster's reckoning. It goes on serving: stop it afterwards. Raises when the store is away."""
        self._wanted.clear()
        while self._presence is not None:
            self._presence.stop()
            await asyncio.sleep(0.01)
        async with self._writing:
            await self._members.delete(self._router)
            await self._states.delete(self._router)
        log.warning("router_unregistered", router=self._router)

    async def register(self) -> None:
        """Take it back in, after ``unregister``."""
        self._wanted.set()

    async def _keep(self) -> None:
        while True:
            await self._wanted.wait()
            await self._put_member()
            await self._known.wait()
            if not self._wanted.is_set():
                continue
            presence = self._presence = Presence(
                self._store, self._record, self._lease_seconds, self._state_file, name=f"router:{self._router}"
            )
            verifying = asyncio.create_task(self._verify(), name="membership-verify")
            try:
                await presence.run()
            finally:
                self._presence = None
                verifying.cancel()
                await asyncio.gather(verifying, return_exceptions=True)

    def _record(self) -> tuple[str, bytes]:
        return keys.ROUTERS.key(self._router), self._states.encode(self._report())

    async def _put_member(self) -> None:
        """Register, however long it takes, unless it is no longer wanted."""
        while self._wanted.is_set():
            try:
                async with self._writing:
                    await self._put_absent()
            except LainError as error:
                self._note(error)
                await asyncio.sleep(min(0.05 * 2.0 ** min(self._failures, 5), 1.0))
            else:
                self._trouble, self._failures = "", 0
                self.registered.set()
                return

    async def _put_absent(self) -> None:
        if self._wanted.is_set():
            with suppress(Conflict):  # registered long ago: "since" stays
                await self._members.put(
                    RouterMember(self._router, self._node, time.time()), self._router, expect=ABSENT
                )
                log.info("router_registered", router=self._router, node=self._node)

    async def _verify(self) -> None:
        while True:
            await asyncio.sleep(VERIFY_SECONDS)
            await self._put_member()

    def _note(self, error: LainError) -> None:
        self._failures += 1
        self._trouble = error.message
        if self._failures == 1 or self._failures % 100 == 0:
            log.warning("router_not_registered", code=error.error_code, error=error.message, why=error.why)


class After:
    """A part that begins only once ``event`` is set: the mirror of ``endpoints`` must not read before the router is registered."""

    def __init__(self, event: asyncio.Event, part: Part) -> None:
        self.name = part.name
        self._event, self._part = event, part
        self._stopped = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._part.ready

    @property
    def why_not_ready(self) -> str:
        if not self._event.is_set():
            return "waits for the router to be registered"
        return str(getattr(self._part, "why_not_ready", ""))

    def stop(self) -> None:
        self._stopped.set()
        self._part.stop()

    async def run(self) -> None:
        await until_stopped(self._stopped, self._wait())
        if not self._stopped.is_set():
            await self._part.run()

    async def _wait(self) -> None:
        await self._event.wait()
