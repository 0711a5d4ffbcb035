"""A watcher and its nginx on a store, as the tests of the whole router start and ask them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from lain_shared import keys
from lain_shared.daemon import Health, run_daemon
from lain_shared.model.route import Endpoint, Endpoints, Route, RouterState
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import eventually
from lain_watcher import main
from lain_watcher.adapters.nginx import Nginx
from lain_watcher.settings import Settings
from tests.fixtures.routing import Backend, Front


@dataclass
class Watched:
    """A watcher and its nginx on a store."""

    store: Store
    front: Front
    settings: Settings
    health: Health
    stop: asyncio.Event
    task: asyncio.Task[None]
    endpoints: Records[Endpoints] = field(init=False)

    def __post_init__(self) -> None:
        self.endpoints = Records(self.store, keys.ENDPOINTS, Endpoints)

    async def put(
        self, app: str, *ready: Backend, host: str = "", routes: tuple[Route, ...] | None = None, **more: Any
    ) -> int:
        """Write ``endpoints/<app>/web`` as deployd would; returns its revision."""
        given = routes if routes is not None else (Route(host or f"{app}.example"),)
        return await self.endpoints.put(
            Endpoints(
                app, "web", ready[0].port if ready else 8000, given,
                ready=tuple(endpoint(backend) for backend in ready), **more,
            ), app, "web",
        )  # fmt: skip

    async def published(self) -> RouterState:
        stored = await Records(self.store, keys.ROUTERS, RouterState).get(self.settings.router)
        assert stored is not None
        return stored.value

    async def applied(self, revision: int) -> RouterState:
        """Wait until the router says that it applied ``revision``."""

        async def reached() -> RouterState | None:
            state = await self.published()
            return state if state.applied_revision >= revision else None

        found = await eventually(reached, what=f"revision {revision} applied")
        assert found is not None
        return found

    async def api(self, method: str, path: str) -> tuple[int, Any]:
        url = f"http://127.0.0.1:{self.settings.port}{path}"
        async with self.front.session.request(method, url) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    async def end(self) -> None:
        self.stop.set()
        await self.task


def endpoint(backend: Backend) -> Endpoint:
    return Endpoint(1, 1, backend.address, backend.port)


@asynccontextmanager
async def running(settings: Settings, store: Store, front: Front) -> AsyncIterator[Watched]:
    health, stop = Health(), asyncio.Event()
    async with (
        Nginx.connect(settings.socket) as nginx,
        main.assembled(settings, health, store, nginx) as daemon,
    ):
        task = asyncio.create_task(run_daemon(daemon, health=health, stop=stop))
        watched = Watched(store, front, settings, health, stop, task)
        try:
            yield watched
        finally:
            stop.set()
            await task


async def ready(watched: Watched) -> None:
    async def is_ready() -> bool:
        try:
            return (await watched.api("GET", "/readyz"))[0] == 200
        except aiohttp.ClientError:
            return False  # it does not listen yet

    await eventually(is_ready, what="the watcher is ready")
