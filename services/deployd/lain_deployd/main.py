"""deployd's two daemons: the controller, built here, and the agent, built in ``agent/main.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import NoReturn

from prometheus_client import CollectorRegistry

from lain_deployd.api import make_api
from lain_deployd.api.common import ADMIN, SNAPSHOTS
from lain_deployd.api.platform import PLATFORM
from lain_deployd.controller.admin import Admin
from lain_deployd.controller.look import Look
from lain_deployd.controller.loops import Controller, make_loops
from lain_deployd.controller.mirrors import Mirrors
from lain_deployd.metrics import ControllerMetrics
from lain_deployd.settings import PREFIX, Settings
from lain_shared import tls
from lain_shared.daemon import Daemon, Health, main
from lain_shared.etcd import EtcdStore
from lain_shared.lease import Leadership
from lain_shared.log import configure
from lain_shared.loop import LoopMetrics, Part
from lain_shared.settings import read_settings
from lain_shared.store import Store
from lain_shared.trust import Trust

SERVICE = "deployd"


@asynccontextmanager
async def controller(settings: Settings, health: Health, *, store: Store | None = None) -> AsyncIterator[Daemon]:
    """A controller replica, ready to run; with ``store``, on that one instead of the settings' etcd."""
    if store is None:
        async with EtcdStore.connect(settings.etcd, tls_dir=settings.tls_dir) as connected:
            yield build(settings, health, connected)
    else:
        yield build(settings, health, store)


def build(
    settings: Settings, health: Health, store: Store, *, on_listening: Callable[[int], None] = lambda _port: None
) -> Daemon:
    """All parts of a controller, in the order in which they start."""
    registry = CollectorRegistry()
    loop_metrics = LoopMetrics(registry)
    leadership = Leadership(store, SERVICE, settings.id, settings.leader_lease_seconds)

    def wake() -> None:
        deciding.wake()

    mirrors = Mirrors(store, wake)
    trust = Trust(store)
    brain = Controller(store, leadership, mirrors, ControllerMetrics(registry), settings.limits)
    deciding, pulse = make_loops(brain, loop_metrics)

    leadership.on_gained = deciding.wake
    leadership.on_lost = deciding.wake
    parts: tuple[Part, ...] = (*trust.parts, *mirrors.parts, pulse, deciding, leadership)
    health.parts.extend(parts)
    release = version("lain-deployd")
    app = make_api(release).build(
        verifier=trust.verifier,
        probes=health.probes,
        metrics=registry,
        context={ADMIN: Admin(store), SNAPSHOTS: mirrors.snapshots, PLATFORM: Look(store, mirrors, release)},
    )
    return Daemon(
        name=SERVICE,
        parts=parts,
        app=app,
        listen=settings.listen,
        port=settings.port,
        ssl_context=tls.server_context(settings.tls_dir) if settings.tls_dir is not None else None,
        grace_seconds=settings.grace_seconds,
        on_listening=on_listening,
    )


def controller_main() -> NoReturn:
    """Run the controller as its environment says."""

    @asynccontextmanager
    async def from_environment(health: Health) -> AsyncIterator[Daemon]:
        settings = read_settings(Settings, PREFIX)
        settings.check()
        configure(SERVICE, settings.log_level)
        async with controller(settings, health) as daemon:
            yield daemon

    main(SERVICE, from_environment)


def agent_main() -> NoReturn:
    """Run the agent as its environment says."""
    from lain_deployd.agent.main import main as run_agent  # noqa: PLC0415 - the controller runs without the agent's libraries

    run_agent()
