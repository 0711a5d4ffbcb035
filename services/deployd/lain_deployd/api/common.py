"""What the handlers share: where the use cases and the mirrors are found, and who asks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from lain_deployd.controller.admin import Admin
from lain_deployd.controller.views import SWITCHES
from lain_deployd.controller.world import Snapshots
from lain_shared.json_fields import pattern
from lain_shared.tokens import Principal

NODE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?\Z")
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "node": {"type": "string", "pattern": pattern(NODE_NAME)},
    "router": {"type": "string", "pattern": pattern(NODE_NAME)},
    "name": {"enum": list(SWITCHES)},
}
"""What stands in a path."""

ADMIN: web.AppKey[Admin] = web.AppKey("admin", Admin)
SNAPSHOTS: web.AppKey[Callable[[], Snapshots]] = web.AppKey("snapshots", Callable)  # type: ignore[arg-type]


def seen_by(caller: Principal, app: str) -> bool:
    """Whether this caller may know of an app: operators, auditors and daemons of all, others of those in their scope."""
    return caller.kind == "daemon" or caller.sees(app)
