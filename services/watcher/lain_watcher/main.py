"""The watcher's parts, in the order in which they start: the only file that knows them all."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import msgspec
from prometheus_client import CollectorRegistry

from lain_shared import daemon, keys
from lain_shared.daemon import Daemon, Health
from lain_shared.errors import Unavailable
from lain_shared.etcd import EtcdStore
from lain_shared.http_server import Probes
from lain_shared.loop import Loop, LoopMetrics
from lain_shared.mirror import Mirror
from lain_shared.model.config import Jwks, Token
from lain_shared.model.route import Endpoints
from lain_shared.records import Records
from lain_shared.settings import read_settings
from lain_shared.store import Store
from lain_shared.tls import server_context
from lain_shared.tokens import Verifier
from lain_watcher import api, loops
from lain_watcher.adapters.folder import Folder
from lain_watcher.adapters.nginx import Nginx
from lain_watcher.loss import Loss
from lain_watcher.membership import After, Membership
from lain_watcher.metrics import Metrics
from lain_watcher.router import Router
from lain_watcher.settings import PREFIX, Settings

MAX_BACKOFF_SECONDS = 0.5


@asynccontextmanager
async def watcher(settings: Settings, health: Health) -> AsyncIterator[Daemon]:
    """A watcher on etcd and nginx, ready to run."""
    settings.check()
    async with (
        EtcdStore.connect(settings.etcd, tls_dir=settings.tls_dir) as store,
        Nginx.connect(settings.socket) as nginx,
        assembled(settings, health, store, nginx) as built,
    ):
        yield built


@asynccontextmanager
async def assembled(settings: Settings, health: Health, store: Store, nginx: Nginx) -> AsyncIterator[Daemon]:
    """The same on any store."""
    registry = CollectorRegistry()
    metrics, loop_metrics = Metrics(registry), LoopMetrics(registry)
    folder = Folder(settings.state_dir)
    folder.secure()
    router = Router(settings.router, metrics)
    membership = Membership(
        store,
        settings.router,
        settings.node or settings.router,
        lambda: router.report,
        known=router.known,
        lease_seconds=settings.lease_seconds,
        state_file=settings.state_dir / "watcher-lease.json",
    )
    router.on_report = membership.wake
    wake: list[Callable[[], None]] = []

    def look() -> None:
        for each in wake:
            each()

    endpoints = Mirror(Records(store, keys.ENDPOINTS, Endpoints), on_change=look)
    config: Mirror[dict[str, Any]] = Mirror(Records(store, keys.CONFIG, dict[str, Any]), on_change=look)
    tokens = Mirror(Records(store, keys.TOKENS, Token))
    passes = loops.Tables(
        router,
        endpoints,
        config,
        folder=folder,
        nginx=nginx,
        metrics=metrics,
        sync_wait_seconds=settings.sync_wait_seconds,
    )
    passes.take_over()
    tables = Loop("tables", passes.one_pass, max_backoff_seconds=MAX_BACKOFF_SECONDS, metrics=loop_metrics)
    wake.append(tables.wake)
    files = loops.CertificateFiles(router, settings.certificates, metrics, on_change=tables.wake)
    await files.one_pass()
    states = Loop(
        "nginx",
        loops.States(router, nginx, on_behind=tables.wake).one_pass,
        max_backoff_seconds=MAX_BACKOFF_SECONDS,
        metrics=loop_metrics,
    )
    gate = Loop("gate", loops.Gate(router, folder, on_open=states.wake).one_pass, metrics=loop_metrics)
    certificates = Loop("certificates", files.one_pass, resync_seconds=loops.CERTIFICATE_SECONDS, metrics=loop_metrics)
    loss = Loss(settings.router, store, nginx, apps=router.routed_apps, metrics=metrics)
    traffic = Loop("traffic", loss.one_pass, max_backoff_seconds=MAX_BACKOFF_SECONDS, metrics=loop_metrics)
    loss.on_wake = traffic.wake
    began = time.monotonic()
    metrics.heard_seconds.set_function(lambda: time.monotonic() - (endpoints.last_heard or began))
    parts = (membership, After(membership.registered, endpoints), config, tokens, certificates, tables, states, gate)
    health.parts.extend(parts)
    telling = (loss.marks, traffic)  # a router that cannot tell what was lost serves all the same: it stays ready
    probes = Probes(
        ready=lambda: {**health.not_ready(), **loops.reasons(router, endpoints, settings.stale_seconds)},
        live=health.not_live,
    )
    app = api.api.build(
        verifier=Verifier(partial(_jwks, config), partial(_tokens, tokens)),
        probes=probes,
        metrics=registry,
        context={api.ROUTER: router, api.TABLES: tables, api.MEMBERSHIP: membership},
    )
    yield Daemon(
        name="watcher",
        parts=(*parts, *telling),
        app=app,
        listen=settings.listen,
        port=settings.port,
        ssl_context=server_context(settings.tls_dir) if settings.tls_dir else None,
        grace_seconds=settings.grace_seconds,
    )


def _jwks(config: Mirror[dict[str, Any]]) -> Jwks | None:
    stored = config.get("jwks")
    if stored is None:
        return None
    try:
        return msgspec.convert(stored.value, Jwks)
    except msgspec.ValidationError as error:
        raise Unavailable("the cluster's public keys cannot be read", why=str(error)) from error


def _tokens(tokens: Mirror[Token]) -> Mapping[str, Token]:
    return {stored.value.id: stored.value for stored in tokens.snapshot().values()}


def main() -> NoReturn:
    """Entry point of ``lain-watcher``."""
    daemon.main("watcher", _from_environment, log_level=os.environ.get(f"{PREFIX}LOG_LEVEL", "info"))


@asynccontextmanager
async def _from_environment(health: Health) -> AsyncIterator[Daemon]:
    async with watcher(read_settings(Settings, PREFIX), health) as built:
        yield built
