"""The console, put together: the only file that knows every part."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from prometheus_client import CollectorRegistry

from lain_console import version
from lain_console.adapters.agents import Agents
from lain_console.adapters.registry import Registry
from lain_console.administration import Administration, Signing
from lain_console.api import build_api, closed_by_switches
from lain_console.api.context import CONTEXT, Context
from lain_console.apps import Apps
from lain_console.images import Keeping
from lain_console.losses import Losses
from lain_console.metrics import Metrics
from lain_console.mirrors import Mirrors
from lain_console.operations.driver import Driver
from lain_console.operations.start import Starter
from lain_console.procs import Procs
from lain_console.reading import Reading
from lain_console.releases import Releases
from lain_console.settings import PREFIX, Settings
from lain_console.state import State
from lain_shared.daemon import Daemon, Health
from lain_shared.daemon import main as run_main
from lain_shared.etcd import EtcdStore
from lain_shared.lease import LeaseKeeper
from lain_shared.log import configure
from lain_shared.loop import Loop, LoopMetrics, Part
from lain_shared.settings import InvalidSettings, read_settings
from lain_shared.store import Store
from lain_shared.tls import client_context, server_context
from lain_shared.trust import Trust

LOOPBACK = ("127.0.0.1", "::1", "localhost")
DRIVE_SECONDS = 5.0
SWEEP_SECONDS = 3600.0
LOSSES_DUTY = 0.1
"""Routers tell of each running operation every few seconds: a look at all of them takes no more than this share of the time."""
DELETIONS_SECONDS = 2.0
"""An order to delete volumes is rare, and nobody waits for its end but who wants the name back."""


@asynccontextmanager
async def console(settings: Settings, health: Health) -> AsyncIterator[Daemon]:
    """A console replica on ``settings``, ready to run."""
    if settings.tls_dir is None and settings.listen not in LOOPBACK:
        raise InvalidSettings(
            f"{PREFIX}TLS_DIR is not set: without certificates the console listens on loopback only",
            next=f"set {PREFIX}TLS_DIR, or {PREFIX}LISTEN=127.0.0.1",
        )
    tls = client_context(settings.tls_dir) if settings.tls_dir is not None else None
    async with (
        EtcdStore.connect(settings.etcd, tls_dir=settings.tls_dir) as store,
        Registry(settings.registry, user=settings.registry_user, password=_password(settings), tls=tls) as registry,
    ):
        yield build(settings, store, registry, Agents(tls), health)


def build(settings: Settings, store: Store, registry: Registry, agents: Agents, health: Health) -> Daemon:
    """The parts, on what they need."""
    metrics = CollectorRegistry()
    loop_metrics = LoopMetrics(metrics)
    state, trust, now = State(store), Trust(store), time.time
    lease = LeaseKeeper(store, settings.holder_lease_seconds, name="holder-lease")
    driver = Driver(state, lease, settings.id, Metrics(metrics), remembered=lambda: mirrors.running())  # noqa: PLW0108 - made below
    drive = Loop(
        "operations", driver.one_pass, resync_seconds=DRIVE_SECONDS, max_backoff_seconds=2.0, duty=0.25, metrics=loop_metrics,
    )  # fmt: skip
    driver.on_wake = drive.wake
    lease.on_lost = driver.wake
    mirrors = Mirrors(state, on_change=drive.wake)
    starter = Starter(state, driver, settings.id)
    administration = Administration(state, Signing(settings.signing_key, trust.jwks), now)
    sweep = Loop("sweep", administration.sweep, resync_seconds=SWEEP_SECONDS, metrics=loop_metrics)
    apps = Apps(state, starter, now)
    deletions = Loop("volume-deletions", apps.settle_deletions, resync_seconds=DELETIONS_SECONDS, metrics=loop_metrics)
    keeping = Loop("kept-images", Keeping(state).one_pass, resync_seconds=SWEEP_SECONDS, metrics=loop_metrics)
    losses = Losses(state, now=now)
    report = Loop("losses", losses.one_pass, metrics=loop_metrics, duty=LOSSES_DUTY)
    losses.on_wake = report.wake
    reading = Reading(state, mirrors, losses, version(), now)
    context = Context(
        state=state,
        mirrors=mirrors,
        reading=reading,
        apps=apps,
        procs=Procs(state, starter),
        releases=Releases(state, registry, starter, now),
        starter=starter,
        administration=administration,
        agents=agents,
        now=now,
        stopping=lambda: health.stopping,
    )
    parts: tuple[Part, ...] = (*trust.parts, *mirrors.parts, lease, drive, sweep, deletions, keeping)
    health.parts.extend(parts)
    telling: tuple[Part, ...] = (*losses.parts, report)  # that routers cannot be heard makes no console unready
    app = build_api().build(verifier=trust.verifier, probes=health.probes, metrics=metrics, context={CONTEXT: context})
    app.middlewares.append(closed_by_switches(mirrors))
    return Daemon(
        name="console",
        parts=(*parts, *telling),
        app=app,
        listen=settings.listen,
        port=settings.port,
        ssl_context=server_context(settings.tls_dir) if settings.tls_dir is not None else None,
        grace_seconds=settings.grace_seconds,
    )


def _password(settings: Settings) -> str:
    if settings.registry_password_file is None:
        return ""
    try:
        return settings.registry_password_file.read_text().strip()
    except OSError as error:
        raise InvalidSettings(
            f"{PREFIX}REGISTRY_PASSWORD_FILE={settings.registry_password_file} cannot be read",
            why=error.strerror or str(error),
        ) from error


def main() -> NoReturn:
    """``lain-console``."""

    @asynccontextmanager
    async def build_from_environment(health: Health) -> AsyncIterator[Daemon]:
        settings = read_settings(Settings, PREFIX)
        configure("console", settings.log_level)
        async with console(settings, health) as daemon:
            yield daemon

    run_main("console", build_from_environment)
