"""What handlers find in the application: the use cases, put together once by ``main.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from lain_console.adapters.agents import Agents
from lain_console.administration import Administration
from lain_console.apps import Apps
from lain_console.mirrors import Mirrors
from lain_console.operations.start import Starter
from lain_console.procs import Procs
from lain_console.reading import Reading
from lain_console.releases import Releases
from lain_console.state import State


@dataclass(frozen=True, slots=True)
class Context:
    """The use cases."""

    state: State
    mirrors: Mirrors
    reading: Reading
    apps: Apps
    procs: Procs
    releases: Releases
    starter: Starter
    administration: Administration
    agents: Agents
    now: Callable[[], float]
    stopping: Callable[[], bool]


CONTEXT: web.AppKey[Context] = web.AppKey("context", Context)


def context(request: web.Request) -> Context:
    return request.app[CONTEXT]
