"""What the watcher's integration tests run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lain_shared.store import Store
from lain_watcher.adapters.nginx import Nginx
from lain_watcher.settings import Settings
from tests.fixtures.etcd import free_ports
from tests.fixtures.nginx import NginxBox
from tests.fixtures.routing import Front
from tests.integration.watcher.watched import Watched, running


@pytest.fixture
async def watch(make_nginx: Callable[..., NginxBox], tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts a watcher on a store, with an nginx (or with a given one)."""
    async with AsyncExitStack() as stack:

        async def start(store: Store, *, box: NginxBox | None = None, nginx: bool = True, **more: Any) -> Watched:
            fresh = box is None
            box = box or make_nginx(wait_seconds="30")
            settings = Settings(
                router="r1", etcd=(), listen="127.0.0.1", port=free_ports(1)[0], state_dir=box.shared, **{
                    "certificates": tmp_path / "certificates", "sync_wait_seconds": 30.0, "lease_seconds": 5, **more},
            )  # fmt: skip
            session = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
            adapter = await stack.enter_async_context(Nginx.connect(box.control))
            watched = await stack.enter_async_context(running(settings, store, Front(box, adapter, session)))
            if fresh and nginx:
                await asyncio.to_thread(box.start)
            return watched

        yield start
