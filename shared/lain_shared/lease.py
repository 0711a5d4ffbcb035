"""What lives on a lease: presence ("this node's agent is here") and leadership ("this replica leads, and its writes are fenced").

A lease's deadline is counted from the moment its renewal was *sent*, so we never believe in it longer than the server does, though this
process were frozen in between. Clock values here are monotonic seconds.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path

import structlog

from lain_shared import keys
from lain_shared.errors import Conflict, LainError, LeaseLost, Uncertain
from lain_shared.model.node import Leader
from lain_shared.records import Records
from lain_shared.stopping import until_stopped
from lain_shared.store import ABSENT, CreateRevision, Entry, Expectation, Store

log = structlog.get_logger()

RELEASE_SECONDS = 2.0
"""How long a stopping part tries to give its lease up; after that it runs out by itself."""
VERIFY_SECONDS = 10.0
"""How often a presence looks whether its key still stands as written."""


class NotLeader(Conflict):
    """This replica does not lead: it must not write what only the leader writes."""

    code = "not_leader"


class HeldLease:
    """One lease and the moment until which it is certainly ours."""

    def __init__(self, store: Store, ttl_seconds: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl_seconds = ttl_seconds
        self.id = 0
        """0: none is held."""
        self.deadline = 0.0
        """Monotonic time: send time of the last good renewal + the TTL the server answered."""
        self._store = store
        self._clock = clock

    @property
    def alive(self) -> bool:
        """The server cannot have ended it yet. False proves nothing: it may live on (renew to find out)."""
        return bool(self.id) and self._clock() < self.deadline

    @property
    def remaining_seconds(self) -> float:
        return max(self.deadline - self._clock(), 0.0) if self.id else 0.0

    async def grant(self) -> None:
        sent = self._clock()
        lease = await self._store.grant(self.ttl_seconds)
        self.id, self.deadline = lease.id, sent + lease.ttl_seconds

    async def renew(self) -> None:
        """Raises ``LeaseLost`` when it is gone (then none is held), ``Unavailable`` when nobody answered (it is still held)."""
        sent = self._clock()
        try:
            remaining = await self._store.keep_alive(self.id)
        except LeaseLost:
            self.forget()
            raise
        self.deadline = max(self.deadline, sent + remaining)

    async def adopt(self, lease_id: int) -> bool:
        """Take over a lease granted earlier (by a process before this one); False when it is gone."""
        self.id, self.deadline = lease_id, 0.0
        try:
            await self.renew()
        except LeaseLost:
            return False
        return True

    async def revoke(self) -> None:
        """Give it up, trying for ``RELEASE_SECONDS``. Never raises for a store that is away: the lease then runs out."""
        lease_id = self.id
        self.forget()
        if lease_id:
            with suppress(LainError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._store.revoke(lease_id)

    def forget(self) -> None:
        self.id, self.deadline = 0, 0.0


class LeaseKeeper:
    """Background part: one lease, granted and renewed for as long as it runs, granted anew when lost (``on_lost`` tells).

    ``state_file`` keeps its id on disk, so that the next process adopts it. ``release``: give it up on stop.
    """

    def __init__(
        self,
        store: Store,
        ttl_seconds: int,
        *,
        name: str = "lease",
        state_file: Path | None = None,
        release: bool = True,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.on_lost = on_lost
        self._store = store
        self._lease = HeldLease(store, ttl_seconds, clock=clock)
        self._state_file = state_file
        self._release = release
        self._adopted = False
        """The lease is an earlier process's."""
        self._noted = True
        """Its id is on disk, if there is a file for it."""
        self._clock = clock
        self._stopped = asyncio.Event()
        self._woken = asyncio.Event()
        self._failures = 0
        self._trouble = ""

    @property
    def ready(self) -> bool:
        return self._lease.alive

    @property
    def why_not_ready(self) -> str:
        return "" if self.ready else self._trouble or "no lease yet"

    @property
    def lease_id(self) -> int:
        """The lease to put keys on. Raises ``LeaseLost`` when none is certainly ours now."""
        if not self._lease.alive:
            raise LeaseLost(f"{self.name} holds no lease now", why=self._trouble, retry_seconds=1.0)
        return self._lease.id

    @property
    def deadline(self) -> float:
        """Monotonic time until which the lease is certainly ours (send time of the last renewal + TTL)."""
        return self._lease.deadline

    def wake(self) -> None:
        """Renew (and publish what changed) now."""
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        try:
            await until_stopped(self._stopped, self._keep())
        finally:
            if self._release:
                await self._lease.revoke()
            else:
                await self._renew_once_more()

    async def _renew_once_more(self) -> None:
        """Leave the process after this one as much time as there can be."""
        if self._lease.alive:
            with suppress(LainError, TimeoutError):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._lease.renew()

    async def _keep(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._hold()
                await self._publish()
            except LeaseLost as error:
                log.warning("lease_lost", part=self.name, error=error.message)
                self._forget_published()
                self._lease.forget()
                self.on_lost()
                continue
            except LainError as error:
                self._note(error)
                await asyncio.sleep(min(0.05 * 2.0 ** min(self._failures, 6), self._lease.ttl_seconds / 6, 1.0))
                continue
            self._recover()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(self._lease.ttl_seconds / 3, self._lease.remaining_seconds / 2)):
                    await self._woken.wait()

    async def _hold(self) -> None:
        """Have a lease that is renewed as of now."""
        if self._lease.id:
            await self._lease.renew()
            if not self._noted:
                self._write_state(self._lease.id)
            return
        if earlier := self._read_state():
            self._adopted = True  # also when the store answers only the next time
            if await self._lease.adopt(earlier):
                log.info("lease_adopted", part=self.name, lease=f"{earlier:x}")
                return
        await self._lease.grant()
        self._adopted = False
        self._write_state(self._lease.id)

    async def _publish(self) -> None:
        """What stands on the lease: nothing here."""

    def _forget_published(self) -> None: ...

    def _read_state(self) -> int:
        if self._state_file is None:
            return 0
        try:
            return int(json.loads(self._state_file.read_text())["lease"], 16)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("lease_file_unreadable", part=self.name, file=str(self._state_file), error=str(error))
            return 0

    def _write_state(self, lease_id: int) -> None:
        """A disk that takes nothing is no reason to give the lease up: it is tried again with each renewal."""
        if self._state_file is None:
            return
        try:
            self._state_file.parent.mkdir(parents=True, exist_ok=True)
            written = self._state_file.with_name(self._state_file.name + ".new")
            written.write_text(json.dumps({"lease": f"{lease_id:x}"}))
            written.replace(self._state_file)
        except OSError as error:
            if self._noted:
                log.warning("lease_not_noted", part=self.name, file=str(self._state_file), error=str(error))
            self._noted = False
        else:
            self._noted = True

    def _note(self, error: LainError) -> None:
        self._failures += 1
        self._trouble = error.message
        if self._failures == 1 or self._failures % 100 == 0:
            log.warning("lease_not_renewed", part=self.name, code=error.error_code, error=error.message, why=error.why)

    def _recover(self) -> None:
        if self._failures:
            log.info("lease_renewed_again", part=self.name, failures=self._failures)
        self._failures, self._trouble = 0, ""


class Presence(LeaseKeeper):
    """One leased key that says "here I am". ``make_record`` gives its key and value; ``wake()`` publishes a changed one at once.

    With ``state_file`` the next process adopts the lease, so an upgrade within the TTL is invisible. It is not given up on stop unless
    ``release=True``: a node is not away because its agent is being replaced. On a new lease, the key is first written once ``may_begin``
    says so (``wake()`` asks again).
    """

    def __init__(
        self,
        store: Store,
        make_record: Callable[[], tuple[str, bytes]],
        ttl_seconds: int,
        state_file: Path | None = None,
        *,
        name: str = "presence",
        release: bool = False,
        on_lost: Callable[[], None] = lambda: None,
        may_begin: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            store, ttl_seconds, name=name, state_file=state_file, release=release, on_lost=on_lost, clock=clock
        )
        self._make_record, self._may_begin = make_record, may_begin
        self._published: tuple[str, bytes] | None = None
        self._verified_at = 0.0

    @property
    def ready(self) -> bool:
        return self._published is not None and self._lease.alive

    @property
    def why_not_ready(self) -> str:
        if self._published is None and self._lease.alive:
            return self._trouble or "holds a lease, and has nothing to say on it yet"
        return super().why_not_ready

    async def _publish(self) -> None:
        if self._published is None and not self._adopted and not self._may_begin():
            return
        record = self._make_record()
        key, value = record
        if record == self._published and self._clock() - self._verified_at < VERIFY_SECONDS:
            return
        if record == self._published:
            entry = await self._store.get(key)
            if entry is not None and entry.value == value and entry.lease == self._lease.id:
                self._verified_at = self._clock()
                return
        self._published = None
        await self._store.put(key, value, lease=self._lease.id)
        self._published, self._verified_at = record, self._clock()

    def _forget_published(self) -> None:
        self._published = None


class Leadership:
    """Background part: stand for the leadership of ``service``, keep it, and tell when it is gained or lost.

    ``is_leader`` turns false by the clock alone; ``fence()`` is what every write of a leader expects, so that a write of one who has been
    replaced fails whatever it believes. ``stop()`` gives the leadership up.
    """

    def __init__(
        self,
        store: Store,
        service: str,
        id: str,
        ttl_seconds: int = 2,
        *,
        on_gained: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"leadership:{service}"
        self.id = id
        self.key = keys.LEADER.key(service)
        self.on_gained = on_gained
        self.on_lost = on_lost
        self.leader: str | None = None
        """Who led when last heard of (this replica's own id included); None: nobody."""
        self._clock = clock
        self._answered_at = -math.inf
        self._service = service
        self._store = store
        self._records = Records(store, keys.LEADER, Leader)
        self._lease = HeldLease(store, ttl_seconds, clock=clock)
        self._create_revision = 0
        self._heard = False
        self._stopped = asyncio.Event()
        self._failures = 0
        self._trouble = ""

    @property
    def ready(self) -> bool:
        """It knows whether it leads. A follower is as ready as a leader."""
        return self._heard

    @property
    def why_not_ready(self) -> str:
        return "" if self._heard else self._trouble or "has not heard who leads"

    @property
    def is_leader(self) -> bool:
        return bool(self._create_revision) and self._lease.alive

    @property
    def seconds_since_answer(self) -> float:
        """Since a question that the store answered was sent. Who leads asks one each third of its lease."""
        return self._clock() - self._answered_at

    def fence(self) -> Expectation:
        """The expectation that every write of this leader carries; raises ``NotLeader`` when it does not lead."""
        if not self.is_leader:
            raise NotLeader(
                f"{self.id} does not lead {self._service}", evidence={"leader": self.leader}, retry_seconds=1.0
            )
        return CreateRevision(self.key, self._create_revision)

    def stop(self) -> None:
        self._stopped.set()

    async def run(self) -> None:
        try:
            await until_stopped(self._stopped, self._campaign())
        finally:
            await self._lease.revoke()

    async def _campaign(self) -> None:
        while True:
            try:
                listing = await self._store.list(self.key)
                entry = next((entry for entry in listing.entries if entry.key == self.key), None)
                self._note_leader(entry)
                if entry is None:
                    await self._stand()
                elif self._lease.id and entry.lease == self._lease.id:
                    await self._lease.renew()  # ours after all: a write whose fate was unknown, or an outage outlived
                    await self._lead(entry.create_revision)
                else:
                    await self._wait_for_vacancy(listing.revision)
                self._failures, self._trouble = 0, ""
            except LeaseLost:
                continue
            except (Conflict, Uncertain):
                continue  # somebody was faster, or perhaps we were: look
            except LainError as error:
                self._note(error)
                await asyncio.sleep(min(0.05 * 2.0 ** min(self._failures, 5), 1.0) * (0.5 + random.random() / 2))  # noqa: S311

    async def _stand(self) -> None:
        if self._lease.id:
            await self._lease.renew()
        else:
            await self._lease.grant()
        record = self._records.encode(Leader(self.id, time.time()))
        revision = await self._store.put(self.key, record, expect=ABSENT, lease=self._lease.id)
        await self._lead(revision)

    async def _lead(self, create_revision: int) -> None:
        self._create_revision, self.leader = create_revision, self.id
        log.info("leadership_gained", service=self._service, id=self.id, revision=create_revision)
        self.on_gained()
        try:
            await self._keep_leading(create_revision)
        finally:
            self._create_revision = 0
            log.info("leadership_lost", service=self._service, id=self.id)
            self.on_lost()

    async def _keep_leading(self, create_revision: int) -> None:
        """Returns when the leadership is lost, or can no longer be vouched for."""
        pause = self._lease.ttl_seconds / 3
        while True:
            await asyncio.sleep(min(pause, self._lease.remaining_seconds))
            if not self._lease.alive:
                return
            pause = self._lease.ttl_seconds / 3
            try:
                async with asyncio.timeout(self._lease.remaining_seconds):
                    await self._lease.renew()
                    asked_at = self._clock()
                    entry = await self._store.get(self.key)
                    self._answered_at = asked_at
            except LeaseLost:
                return
            except LainError as error:
                self._note(error)
                pause = self._lease.ttl_seconds / 20
                continue
            except TimeoutError:
                return
            self._failures = 0
            if entry is None or entry.create_revision != create_revision:
                log.warning("leadership_taken", service=self._service, id=self.id)
                return

    async def _wait_for_vacancy(self, revision: int) -> None:
        """Until the leader's key changed, or it is time to look again."""
        if self._lease.id:
            await self._lease.revoke()
        with suppress(TimeoutError):
            async with asyncio.timeout(3.0 * self._lease.ttl_seconds):
                async with aclosing(self._store.watch(self.key, start_revision=revision + 1)) as batches:
                    async for batch in batches:
                        if any(change.key == self.key for change in batch.items):
                            return

    def _note_leader(self, entry: Entry | None) -> None:
        self._heard = True
        try:
            self.leader = None if entry is None else self._records.decode(entry.key, entry.value).id
        except LainError as error:
            log.error("leader_unreadable", service=self._service, error=error.message)

    def _note(self, error: LainError) -> None:
        self._failures += 1
        self._trouble = error.message
        if self._failures == 1 or self._failures % 100 == 0:
            log.warning("leadership_trouble", service=self._service, code=error.error_code, error=error.message)
