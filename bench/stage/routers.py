"""A router of the stage's own: a real nginx under its supervisor, a watcher of this process, and a store in memory that says anything."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from lain_shared.daemon import Health, run_daemon
from lain_shared.testing import MemoryStore
from lain_watcher import main
from lain_watcher.adapters.nginx import Nginx
from lain_watcher.api import ROUTER
from lain_watcher.router import Router
from lain_watcher.settings import Settings
from tests.fixtures.etcd import free_ports
from tests.fixtures.nginx import NginxBox


@contextlib.contextmanager
def nginx_box(**settings: str) -> Iterator[NginxBox]:
    """One that is not started yet, and gone at the end. ``settings``: of ``LAIN_NGINX_…``."""
    root = Path(tempfile.mkdtemp(prefix="lain-nginx-"))
    root.chmod(0o711)  # the workers are nobody, and their temporary files are in here
    (root / "shared").mkdir(mode=0o700)
    (root / "certificates").mkdir(mode=0o700)
    chosen = {f"LAIN_NGINX_{name.upper()}": value for name, value in settings.items()}
    http, https, external = free_ports(3)
    box = NginxBox(root, http, https, external, chosen)
    try:
        yield box
    finally:
        if box.process is not None and box.process.poll() is None:
            box.process.send_signal(signal.SIGTERM)
            try:
                box.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                box.process.kill()
                box.process.wait()
        shutil.rmtree(root, ignore_errors=True)


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
    with nginx_box(wait_seconds="30", workers="2") as box:
        settings = Settings(
            router="r1", etcd=(), listen="127.0.0.1", port=0, state_dir=box.shared, certificates=box.root / "certificates",
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
