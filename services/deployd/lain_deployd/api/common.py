"""What the handlers share: where the use cases and the mirrors are found, and who asks."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from lain_deployd.controller.admin import Admin
from lain_deployd.controller.world import Snapshots
from lain_shared.tokens import Principal

ADMIN: web.AppKey[Admin] = web.AppKey("admin", Admin)
SNAPSHOTS: web.AppKey[Callable[[], Snapshots]] = web.AppKey("snapshots", Callable)  # type: ignore[arg-type]


def seen_by(caller: Principal, app: str) -> bool:
    """Whether this caller may know of an app: operators, auditors and daemons of all, others of those in their scope."""
    return caller.kind == "daemon" or caller.sees(app)
