"""The watcher's passes: certificates → router; mirrors → table → disk → nginx; nginx → what is published."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from lain_shared import keys
from lain_shared.mirror import Mirror
from lain_shared.model.config import ClusterConfig
from lain_shared.model.route import Endpoints
from lain_watcher import table as tables
from lain_watcher.adapters import certificates
from lain_watcher.adapters.folder import Folder, FolderFault
from lain_watcher.adapters.nginx import Nginx, NginxSilent, NginxState, TableOvertaken, TableRefused
from lain_watcher.metrics import Metrics
from lain_watcher.router import Router
from lain_watcher.routes import GUARD_SECONDS, Picture, Verdict, plan

log = structlog.get_logger()

PACE_SECONDS = 0.02
"""Passes begin no closer than this: what changes in between is one swap."""
LOOK_SECONDS, HURRY_SECONDS = 1.0, 0.1
"""How often nginx is looked at; and while something drains, is being taken over, or nginx is absent."""
GATE_SECONDS = 0.1
"""How often the gate is looked at: an nginx whose container starts anew waits for it, and serves nobody meanwhile."""
CERTIFICATE_SECONDS = 0.5
BEHIND_SECONDS = 3.0
"""A swap takes milliseconds; workers that lag longer are a reason not to send traffic here."""


class Tables:
    """Makes the table out of the mirrors, and sees that nginx serves from it."""

    def __init__(
        self,
        router: Router,
        endpoints: Mirror[Endpoints],
        config: Mirror[dict[str, Any]],
        *,
        folder: Folder,
        nginx: Nginx,
        metrics: Metrics,
        sync_wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._router, self._endpoints, self._config = router, endpoints, config
        self._folder, self._nginx, self._metrics = folder, nginx, metrics
        self._sync_wait_seconds = sync_wait_seconds
        self._clock = clock
        self._began = clock()
        self._last_pass = 0.0

    def take_over(self) -> None:
        """Begin from the table the last process left on disk, if there is one."""
        raw = self._folder.read_table()
        if raw is None:
            return
        try:
            table = tables.decode(raw)
        except tables.BadTable as error:
            log.error("last_table_unusable", error=error.message, why=error.why)
            return
        text = tables.encode(table)
        self._router.on_disk = text
        self._router.accept(Verdict(table), text)
        log.info("last_table_taken_over", revision=table.revision, hosts=len(table.hosts))

    async def one_pass(self) -> float | None:
        await asyncio.sleep(max(self._last_pass + PACE_SECONDS - time.monotonic(), 0.0))
        self._last_pass = time.monotonic()
        if not self._endpoints.ready:
            return await self._without_store()
        router = self._router
        verdict = plan(
            self._picture(),
            router.table,
            now=self._clock(),
            guard=router.verdict.guard if router.verdict else None,
            accept_loss=router.accept_loss,
        )
        router.accept_loss = False
        text = tables.encode(verdict.table)
        fault = await self._save(text)
        router.accept(verdict, text)
        if fault is None:
            router.may_listen = True
            self._folder.open_gate()
        await self._put()
        if fault is not None:
            raise fault
        return 1.0 if verdict.guard is not None else None

    async def _save(self, text: tables.TableText) -> FolderFault | None:
        """Write the table for nginx's next start. A full disk stops no change from being served, only from counting as applied."""
        router = self._router
        if router.on_disk is not None and router.on_disk.version == text.version:
            return None
        try:
            await self._folder.write_table(text.text)
        except FolderFault as fault:
            return fault
        router.on_disk = text
        return None

    async def _without_store(self) -> float:
        """etcd has not been read yet. After a while the last good picture is better than none."""
        if self._router.text is not None and self._clock() - self._began >= self._sync_wait_seconds:
            if not self._router.may_listen:
                log.warning("started_from_last_table", revision=self._router.text.revision)
            self._router.may_listen = True
            self._folder.open_gate()
            await self._put()
        return 0.25

    def _picture(self) -> Picture:
        domains, https_port = self._cluster()
        return Picture(
            revision=self._endpoints.revision,
            endpoints=self._endpoints.snapshot(),
            bad=dict(self._endpoints.bad),
            certificates=self._router.certificates.usable,
            domains=domains,
            https_port=https_port,
        )

    def _cluster(self) -> tuple[tuple[str, ...], int]:
        """The cluster's domains and public TLS port: as configured, else as they were."""
        last = self._router.table
        known = (last.domains, last.https_port) if last else ((), 443)
        if not self._config.ready:
            return known
        stored = self._config.get("cluster")
        if stored is None:
            return known
        try:
            cluster = msgspec.convert(stored.value, ClusterConfig)
        except msgspec.ValidationError as error:
            log.error("cluster_config_unreadable", key=keys.CONFIG.key("cluster"), error=str(error))
            return known
        return (cluster.domain, *cluster.extra_domains), cluster.router_https_port

    async def _put(self) -> None:
        """Give nginx the table on disk, unless it has it."""
        router = self._router
        if router.text is None or (router.settled and router.looked):
            return
        began = time.monotonic()
        try:
            state = await self._swap(router.text)
        except TableRefused:
            self._metrics.swaps.labels("refused").inc()
            raise
        except NginxSilent as error:
            router.fall_silent(error.message)
            raise
        router.observe(state)
        self._metrics.swaps.labels("applied" if state else "absent").inc()
        if state is not None:
            self._metrics.swap_seconds.observe(time.monotonic() - began)

    async def _swap(self, text: tables.TableText) -> NginxState | None:
        """Put ``text`` in place of what nginx said last that it has; when it has another by now, look, and let the next pass do it."""
        router = self._router
        if router.nginx is None:
            router.observe(await self._nginx.state())  # one may have started since
        published = router.nginx.published if router.nginx else None
        try:
            return await self._nginx.put_table(text.text, replaces=published or "")
        except TableOvertaken:
            router.observe(await self._nginx.state())
            raise


class States:
    """Looks at nginx: is it there, which table do its workers serve from, what is in flight."""

    def __init__(self, router: Router, nginx: Nginx, *, on_behind: Callable[[], None]) -> None:
        self._router, self._nginx = router, nginx
        self._on_behind = on_behind

    async def one_pass(self) -> float:
        router = self._router
        try:
            state = await self._nginx.state()
        except NginxSilent as error:
            router.fall_silent(error.message)
            raise
        router.observe(state)
        if (
            state is not None
            and router.may_listen
            and router.text is not None
            and state.published != router.text.version
        ):
            self._on_behind()
        return LOOK_SECONDS if router.settled and not router.draining else HURRY_SECONDS


class Gate:
    """Opens the gate to an nginx whose container started anew, when there is a table good enough to start from."""

    def __init__(self, router: Router, folder: Folder, *, on_open: Callable[[], None]) -> None:
        self._router, self._folder, self._on_open = router, folder, on_open

    async def one_pass(self) -> float:
        if self._router.may_listen and self._folder.open_gate():
            log.info("gate_opened")
            self._on_open()
        return GATE_SECONDS


class CertificateFiles:
    """Reads the directory of certificates when something in it changed, and once an hour for what time changes."""

    def __init__(
        self, router: Router, directory: Path | None, metrics: Metrics, *, on_change: Callable[[], None]
    ) -> None:
        self._router, self._directory, self._metrics = router, directory, metrics
        self._on_change = on_change
        self._seen: object = None

    async def one_pass(self) -> None:
        now = time.time()
        seen = (await asyncio.to_thread(_signature, self._directory), int(now // 3600))
        if seen == self._seen:
            return
        found = await asyncio.to_thread(certificates.read, self._directory, now=now)
        before = self._router.certificates
        found = found.after(before)
        self._router.certificates = found
        self._seen = seen
        problems = {view.pattern: view.problem for view in found.views if view.problem}
        if problems != {view.pattern: view.problem for view in before.views if view.problem}:
            log.warning("certificate_problems_changed", problems=problems)
        self._metrics.certificate_problems.set(len(problems))
        ends = [view.not_after for view in found.views if view.served and view.not_after is not None]
        self._metrics.certificate_expiry.set(min(ends, default=0))
        if before.usable != found.usable:
            log.info("certificates_changed", patterns=sorted(found.usable))
            self._on_change()


def _signature(directory: Path | None) -> tuple[tuple[str, int, int, int], ...]:
    """What tells that a file in ``directory`` was changed, replaced, added or removed."""
    if directory is None:
        return ()
    found = []
    try:
        for path in directory.iterdir():
            try:
                facts = path.stat()
            except OSError:
                continue  # a dangling link, or gone since: its absence is the signature
            found.append((path.name, facts.st_mtime_ns, facts.st_size, facts.st_ino))
    except OSError:
        return ()
    return tuple(sorted(found))


def reasons(
    router: Router, endpoints: Mirror[Endpoints], stale_seconds: float, *, now: Callable[[], float] = time.monotonic
) -> Mapping[str, str]:
    """Why this router should not be given traffic, beyond what its parts say themselves."""
    found: dict[str, str] = {}
    if router.silence:
        found["nginx"] = router.silence
    elif router.looked and router.nginx is None:
        found["nginx"] = "no nginx process exists"
    elif router.behind_since is not None and (behind := now() - router.behind_since) > BEHIND_SECONDS:
        found["nginx"] = f"its workers have not all taken over the table for {behind:.0f} s"
    if endpoints.ready and (silence := now() - endpoints.last_heard) > stale_seconds:
        found["etcd"] = f"nothing heard for {silence:.0f} s; serving the last picture"
    if router.verdict is not None and router.verdict.guard is not None:
        lost = len(router.verdict.guard.lost)
        found["guard"] = (
            f"{lost} hosts vanished at once; kept for {GUARD_SECONDS:.0f} s or until an operator accepts the loss"
        )
    return found
