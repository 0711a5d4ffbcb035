"""Deletes the volumes of undeployed apps, where the console ordered it: exactly those named, once nothing of the app is on the node."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from lain_deployd.agent import volumes
from lain_deployd.agent.keeper import Keeper
from lain_shared.mirror import Mirror
from lain_shared.model.volume import VolumeDeletion

log = structlog.get_logger()

LOOK_AGAIN_SECONDS = 2.0


class Deletions:
    """One pass of the loop that carries the orders out. An order stays until the console sees that ``nodes-state`` lists none of them."""

    def __init__(
        self, keeper: Keeper, orders: Mirror[VolumeDeletion], root: Path, forget: Callable[[str], None]
    ) -> None:
        self._keeper, self._orders, self._root, self._forget = keeper, orders, root, forget

    async def one_pass(self) -> float | None:
        """Returns when to look again while something of an app is still there."""
        waiting = False
        for stored in self._orders.snapshot().values():
            order = stored.value
            if self._is_here(order.app):
                waiting = True
                continue
            for name in order.volumes:
                if name.rpartition(".")[0] != order.app:
                    continue  # of another app, whose name begins like this one's: it may well be here
                try:
                    await self._delete(name, order)
                except OSError as error:
                    log.error("volume_not_deleted", volume=name, app=order.app, error=str(error))
                    waiting = True
        return LOOK_AGAIN_SECONDS if waiting else None

    def _is_here(self, app: str) -> bool:
        """Whether anything of the app is, or may be, on this node; before all is known it may."""
        keeper = self._keeper
        if not (keeper.whole and keeper.listed):
            return True
        return any(pod.app == app for pod in (*keeper.orders, *keeper.containers, *keeper.unreadable))

    async def _delete(self, name: str, order: VolumeDeletion) -> None:
        path = volumes.path_of(name, self._root)
        if name not in self._keeper.saved.volumes and not path.exists():
            return
        if path.exists():
            await asyncio.to_thread(shutil.rmtree, path)  # follows no link out of it
            for parent in (path.parent, path.parent.parent):
                if parent != self._root and not any(parent.iterdir()):
                    parent.rmdir()
        self._forget(name)
        log.warning("volume_deleted", volume=name, app=order.app, who=order.who)
