"""What of the pods is told in ``observed/<node>/``, and when: news at once, the rest with it or a moment later, in one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from lain_deployd.agent.keeper import Keeper
from lain_shared import keys
from lain_shared.errors import Invalid, LainError, Unavailable
from lain_shared.model.pod import Observed, PodId, PodState
from lain_shared.records import BadRecord, Records
from lain_shared.store import Delete, Put, Store, Write

log = structlog.get_logger()

PATIENCE_SECONDS = 0.2
GATHER_SECONDS = 1.0
"""While many pods are at work, what can wait is told this much later, at most."""
GATHER_FROM = 4
"""Pods at work: so many may be many."""
ENDS = frozenset({PodState.BACKOFF, PodState.EXITED, PodState.FAILED})
MAX_WRITES = 50
"""In one transaction: each may carry its last 20 lines, and etcd takes 1.5 MiB."""


class Observing:
    """One pass of the loop that makes ``observed/<node>/`` equal to the keeper's report: what changed, in one transaction.

    Every write makes the leader look, and the router or the next pod waits for few of them: what nobody acts on (``is_news``) is written
    with what somebody does, or after ``PATIENCE_SECONDS``. While many pods start or stop at once, each is ready, or gone, at a moment of
    its own: those that have company (``is_urgent``) are told together, within ``GATHER_SECONDS``.

    What stands there is read again every ``verify_seconds``: somebody may have deleted it, or put a store back that is older.
    """

    def __init__(
        self,
        store: Store,
        keeper: Keeper,
        *,
        verify_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = Records(store, keys.OBSERVED, Observed)
        self._monotonic = monotonic
        self._store = store
        self._keeper = keeper
        self._verify_seconds = verify_seconds
        self._read_at = 0.0
        self._written: dict[str, bytes] | None = None
        self._keys: dict[PodId, str] = {}
        self._told: dict[PodId, Observed] = {}
        """What ``_written`` says of those written by this process."""
        self._waits_since: float | None = None
        self.current = False
        """``observed`` says what is, as of the last pass; or it says nothing, and so nothing that is no more."""
        self.on_current: Callable[[], None] = lambda: None

    async def one_pass(self) -> float | None:
        if self._written is None or self._monotonic() - self._read_at >= self._verify_seconds:
            await self._read()
        if not self._keeper.told or self._written is None:
            if not self._written:
                self._is_current()
            return None
        report = self._keeper.report
        wanted = {self._key(pod): self._records.encode(seen) for pod, seen in report.items()}
        kept = wanted.keys() | {self._key(pod) for pod in self._keeper.untold}
        surplus = [key for key in self._written if key not in kept] if self._keeper.whole else []
        changed = {
            pod: seen for pod, seen in report.items() if self._written.get(self._key(pod)) != wanted[self._key(pod)]
        }
        if (changed or surplus) and (wait := self._patience(changed, surplus)) > 0.0:
            return wait
        self._waits_since = None
        writes: list[Write] = [Put(self._key(pod), wanted[self._key(pod)]) for pod in changed]
        writes += [Delete(key) for key in surplus]
        try:
            for begin in range(0, len(writes), MAX_WRITES):
                await self._write(writes[begin : begin + MAX_WRITES])
        except Exception as error:
            self._written, self._told = None, {}  # some may have been written: read again before deciding
            if isinstance(error, Invalid):
                self._is_current()  # of all but one, which the store will not take: no reason for the node to stay away
            else:
                self.current = False
            raise
        self._keys = {pod: key for pod, key in self._keys.items() if key in kept}
        self._told = {
            pod: report.get(pod) or told for pod, told in {**self._told, **changed}.items() if pod in self._keys
        }
        self._is_current()
        return None

    def _patience(self, changed: Mapping[PodId, Observed], surplus: Sequence[str]) -> float:
        """How long to wait with these changes, for more."""
        many = self._keeper.at_work >= GATHER_FROM
        if many:
            leaving = set(surplus)
            gone = {pod for pod, key in self._keys.items() if key in leaving}
            urgent = len(gone) < len(leaving) or is_urgent(self._told, changed, gone)
        else:
            urgent = bool(surplus) or any(is_news(self._told.get(pod), seen) for pod, seen in changed.items())
        if urgent:
            return 0.0
        now = self._monotonic()
        if self._waits_since is None:
            self._waits_since = now
        return self._waits_since + (GATHER_SECONDS if many else PATIENCE_SECONDS) - now

    def _is_current(self) -> None:
        if not self.current:
            self.current = True
            self.on_current()

    async def _read(self) -> None:
        listing = await self._store.list(self._records.family.under(self._keeper.node))
        self._read_at = self._monotonic()
        self._written = {entry.key: entry.value for entry in listing.entries}
        seen: list[Observed] = []
        for entry in listing.entries:
            try:
                seen.append(self._records.decode(entry.key, entry.value))
            except BadRecord as error:
                log.error("record_unreadable", key=entry.key, error=str(error))
        self._keeper.seed(seen)

    async def _write(self, writes: Sequence[Write]) -> None:
        """All of them at once: one revision, which whoever watches takes as one change. Should that be refused, each by itself."""
        try:
            await self._store.txn((), writes)
        except Unavailable:
            raise
        except LainError as error:
            if len(writes) == 1:
                raise
            log.warning("observed_written_singly", error=error.message, why=error.why)
            ended = await asyncio.gather(*(self._write([write]) for write in writes), return_exceptions=True)
            for fault in sorted((one for one in ended if one is not None), key=lambda one: isinstance(one, Invalid)):
                raise fault from error  # once all were tried, and what is worth another try before what is not
            return
        if self._written is not None:
            for write in writes:
                if isinstance(write, Put):
                    self._written[write.key] = write.value
                else:
                    self._written.pop(write.key, None)

    def _key(self, pod: PodId) -> str:
        if (known := self._keys.get(pod)) is None:
            known = self._keys[pod] = self._records.family.key(self._keeper.node, str(pod))
        return known


def is_urgent(told: Mapping[PodId, Observed], changed: Mapping[PodId, Observed], gone: Collection[PodId]) -> bool:
    """Whether any of this cannot wait for more of its kind.

    What can: a pod that is ready as others of its proc and generation are already, and one that is gone while others of them are left. A
    rollout one by one gives each a generation of its own.
    """
    serving = {_batch(pod) for pod, seen in told.items() if seen.ready}
    left = {_batch(pod) for pod in told if pod not in gone}
    if any(_batch(pod) not in left for pod in gone):
        return True
    for pod, seen in changed.items():
        before = told.get(pod)
        joins = before is not None and seen.ready and not before.ready and _batch(pod) in serving
        if is_news(replace(before, ready=True) if before is not None and joins else before, seen):
            return True
    return False


def _batch(pod: PodId) -> tuple[str, str, int]:
    return pod.app, pod.proc, pod.generation


def is_news(told: Observed | None, seen: Observed) -> bool:
    """Whether somebody may act on the difference, so that it is written at once: a pod nobody heard of, ready or not any more, ended."""
    if told is None or told.ready != seen.ready or (told.state is not seen.state and seen.state in ENDS):
        return True
    return (told.restarts, told.exit_code, told.error, told.evidence) != (
        seen.restarts, seen.exit_code, seen.error, seen.evidence,
    )  # fmt: skip
