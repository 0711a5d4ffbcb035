"""A router of the stage's own: a real nginx under its supervisor, a watcher of this process, and a store in memory that says anything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from lain_shared.daemon import Health, run_daemon
from lain_shared.testing import MemoryStore
from lain_watcher import main
from lain_watcher.adapters.nginx import Nginx
from lain_watcher.api import ROUTER
from lain_watcher.router import Router
from lain_watcher.settings import Settings
from tests.fixtures.nginx import NginxBox, own_nginx


@dataclass(frozen=True)
class Watched:
    """The running router. ``router``: what its watcher makes of the store."""

    store: MemoryStore
    box: NginxBox
    nginx: Nginx
    router: Router


@contextlib.asynccontextmanager
async def watched(store: MemoryStore) -> AsyncIterator[Watched]:
    """A watcher on ``store`` and its nginx."""
    with own_nginx(wait_seconds="30", workers="2") as box:
        certificates = box.root / "certificates"
        certificates.mkdir(mode=0o700)
        settings = Settings(
            router="r1", etcd=(), listen="127.0.0.1", port=0, state_dir=box.shared, certificates=certificates,
            sync_wait_seconds=30.0, lease_seconds=10,
        )  # fmt: skip
        health, stop = Health(), asyncio.Event()
        async with Nginx.connect(settings.socket) as nginx, main.assembled(settings, health, store, nginx) as daemon:
            assert daemon.app is not None
            running = asyncio.create_task(run_daemon(daemon, health=health, stop=stop))
            try:
                await asyncio.to_thread(box.start)
                yield Watched(store, box, nginx, daemon.app[ROUTER])
            finally:
                stop.set()
                await running
