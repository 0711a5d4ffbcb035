"""What this router serves and what it says of itself: the one place where the loops of this daemon meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice

import structlog

from lain_shared.errors import Unavailable
from lain_shared.model.route import RouterState
from lain_watcher.adapters.certificates import Certificates
from lain_watcher.adapters.nginx import NginxState
from lain_watcher.metrics import Metrics
from lain_watcher.routes import Verdict
from lain_watcher.table import Table, TableText

log = structlog.get_logger()

STARTING = "starting"
"""The boot id of an nginx that has not told its own yet."""
TOLD_APPS = 100
TOLD_CHARACTERS = 200
"""What is published of the quarantined stays small, whatever an app's data may be; the API tells all of it."""


def briefly(quarantined: Mapping[str, str]) -> dict[str, str]:
    """The first apps by name, and why, shortly."""
    return {app: why[:TOLD_CHARACTERS] for app, why in islice(sorted(quarantined.items()), TOLD_APPS)}


class NotYetKnown(Unavailable):
    """Neither nginx nor the store has been looked at yet."""

    code = "not_ready"


class Router:
    """The table in force and nginx's answer to it. ``on_report``: what is published of this router changed."""

    def __init__(self, id: str, metrics: Metrics, *, on_report: Callable[[], None] = lambda: None) -> None:
        self.id = id
        self.on_report = on_report
        self.verdict: Verdict | None = None
        """What was planned last; None until the first plan of this process, or the last good table was taken over."""
        self.text: TableText | None = None
        """The table that nginx should serve from."""
        self.on_disk: TableText | None = None
        """The table that nginx would start from: another one only while the disk cannot be written."""
        self.nginx: NginxState | None = None
        """What nginx said last; None: no nginx process exists (or ``looked`` is False)."""
        self.looked = False
        """Whether nginx was ever asked and answered, or proved absent."""
        self.silence = ""
        """Why nginx, though it is there, does not answer; "" when it does."""
        self.may_listen = False
        """The table on disk is good enough for nginx to start from."""
        self.certificates = Certificates()
        self.accept_loss = False
        """An operator said that the hosts held by the guard are meant to be gone."""
        self.behind_since: float | None = None
        """Monotonic time since which nginx's workers serve from another table than the wanted one; None: they do not."""
        self.known = asyncio.Event()
        """Set once there is something to publish."""
        self._start_revision = 0
        """Of the table on disk when nginx was last seen to be absent: one that started since may have read that one, and none newer."""
        self._report: RouterState | None = None
        self._metrics = metrics

    @property
    def table(self) -> Table | None:
        return self.verdict.table if self.verdict else None

    @property
    def report(self) -> RouterState:
        """What to publish; raises ``NotYetKnown`` before nginx was looked at."""
        if self._report is None:
            raise NotYetKnown(f"router {self.id} has not looked at its nginx yet", retry_seconds=0.2)
        return self._report

    def accept(self, verdict: Verdict, text: TableText) -> None:
        """``text``, made of ``verdict``, is what nginx should serve from."""
        before = self.verdict
        self.verdict, self.text = verdict, text
        if before is not None and before.quarantined != verdict.quarantined:
            log.warning(
                "quarantine_changed", apps=len(verdict.quarantined), quarantined=briefly(verdict.quarantined),
                not_applied=verdict.not_applied[:TOLD_APPS],
            )  # fmt: skip
        if (before.guard if before else None) is None and verdict.guard is not None:
            log.error("sudden_loss_held", hosts=len(verdict.guard.lost), first=verdict.guard.lost[:5])
        if before is not None and before.guard is not None and verdict.guard is None:
            log.warning("sudden_loss_over", hosts=len(verdict.table.hosts))
        metrics = self._metrics
        metrics.hosts.set(len(verdict.table.hosts))
        metrics.procs.set(len(verdict.table.procs))
        metrics.table_bytes.set(len(text.text))
        metrics.quarantined.set(len(verdict.quarantined))
        metrics.not_applied.set(len(verdict.not_applied))
        metrics.guard.set(verdict.guard is not None)
        self._refresh_report()

    def observe(self, state: NginxState | None) -> None:
        """nginx said ``state``, or was seen to be absent (None)."""
        before = self.nginx.boot_id if self.nginx else ""
        after = state.boot_id if state else ""
        if not self.looked or before != after:
            log.info("nginx_seen" if state else "nginx_absent", boot_id=after)
            if state is not None:
                self._metrics.nginx_starts.inc()
        self.nginx, self.looked, self.silence = state, True, ""
        if state is None:
            self._start_revision = self.on_disk.revision if self.on_disk else 0
        self._metrics.nginx_up.set(state is not None)
        self._metrics.inflight.set(sum(state.inflight.values()) if state else 0)
        self._metrics.ejected.set(len(state.ejected) if state else 0)
        self._metrics.all_ejected.set(len(self.all_ejected()))
        self._refresh_report()

    def fall_silent(self, why: str) -> None:
        """nginx is there and does not answer: its last word stands, for it may hold requests; that none exists stands no longer."""
        self.silence = why
        self._refresh_report()

    def all_ejected(self) -> tuple[str, ...]:
        """``app.proc`` of procs all of whose ready backends refused connections lately: nginx still tries them."""
        if self.nginx is None or self.table is None or not self.nginx.ejected:
            return ()
        gone = self.nginx.ejected.keys()
        return tuple(
            f"{entry.app}.{entry.proc}"
            for entry in self.table.procs.values()
            if entry.ready and all(peer in gone for peer in entry.ready)
        )

    def routed_apps(self) -> frozenset[str]:
        """Apps that have a route in the table."""
        return (
            frozenset(entry.app for entry in self.table.procs.values() if entry.routes) if self.table else frozenset()
        )

    @property
    def draining(self) -> bool:
        return self.table is not None and bool(self.table.draining)

    @property
    def settled(self) -> bool:
        """nginx is there and all its workers serve from the wanted table."""
        return self.nginx is not None and self.text is not None and self.nginx.version == self.text.version

    def _refresh_report(self) -> None:
        behind = self.nginx is not None and not self.settled
        self.behind_since = (self.behind_since or time.monotonic()) if behind else None
        if not self.looked:
            return
        report = self._describe()
        if self._report is not None:
            same = (report.applied_revision, report.boot_id) == (self._report.applied_revision, self._report.boot_id)
            report = replace(report, applied_at=self._report.applied_at if same else report.applied_at)
        if report != self._report:
            self._report = report
            self.known.set()
            self._metrics.applied_revision.set(report.applied_revision)
            self._metrics.busy_draining.set(len(report.busy))
            self.on_report()

    def _describe(self) -> RouterState:
        if self.nginx is None:  # it routes nothing, and will start from the table on disk
            return self._state(self._start_revision, boot_id=STARTING if self.silence else "", busy=())
        draining = self.table.draining if self.table else frozenset()
        busy = tuple(sorted(draining & self.nginx.inflight.keys()))
        serving = self.nginx.revision or 0
        if self.on_disk is not None and self.text is not None and self.on_disk.version != self.text.version:
            serving = min(serving, self.on_disk.revision)  # a restart of nginx would bring the older table back
        return self._state(serving, boot_id=self.nginx.boot_id, busy=busy)

    def _state(self, applied_revision: int, *, boot_id: str, busy: tuple[str, ...]) -> RouterState:
        return RouterState(
            router=self.id,
            applied_revision=applied_revision,
            boot_id=boot_id,
            applied_at=time.time(),
            busy=busy,
            quarantined=briefly(self.verdict.quarantined) if self.verdict else {},
            not_applied=self.verdict.not_applied if self.verdict else (),
        )
