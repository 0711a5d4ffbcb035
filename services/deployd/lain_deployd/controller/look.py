"""How the platform is as this replica sees it: asked of etcd now, the rest out of its mirrors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from lain_deployd.controller import views
from lain_deployd.controller.mirrors import Mirrors
from lain_shared import platform_look
from lain_shared.platform_view import PlatformView
from lain_shared.store import Store


class Look:
    """Called, it answers; it never raises for an etcd that is away."""

    def __init__(self, store: Store, mirrors: Mirrors, version: str, *, clock: Callable[[], float] = time.time) -> None:
        self._store, self._mirrors, self._version, self._clock = store, mirrors, version, clock

    async def __call__(self) -> PlatformView:
        members, leader = await asyncio.gather(
            platform_look.etcd_members(self._store), platform_look.leader(self._store)
        )
        mirrors = self._mirrors
        return PlatformView(
            daemon=platform_look.DEPLOYD,
            version=self._version,
            now=self._clock(),
            leader=leader,
            store_trouble=next((mirror.trouble for mirror in mirrors.parts if mirror.trouble), ""),
            etcd=members,
            unreadable={key: why for mirror in mirrors.parts for key, why in sorted(mirror.bad.items())},
            nodes=await asyncio.to_thread(views.nodes, mirrors.snapshots()) if mirrors.ready else (),
        )
