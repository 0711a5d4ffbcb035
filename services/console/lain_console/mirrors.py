"""What the console keeps in memory: for lists, for event streams, and to know when to look again. Nothing is decided on it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from lain_console.state import Scene, State
from lain_shared.mirror import Mirror
from lain_shared.model.pod import Desired
from lain_shared.model.route import Endpoints
from lain_shared.model.status import ProcStatus
from lain_shared.records import Stored

T = TypeVar("T")


class Bell:
    """Tells whoever waits that something changed; carries no data."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, at_most_seconds: float) -> None:
        try:
            async with asyncio.timeout(at_most_seconds):
                await self._event.wait()
        except TimeoutError:
            return


class Mirrors:
    """``bell`` rings at every change of them. ``on_change``: wake the driver."""

    def __init__(self, state: State, on_change: Callable[[], None]) -> None:
        self.bell = Bell()
        self._on_change = on_change
        self.apps = Mirror(state.apps, on_change=self._changed)
        self.operations = Mirror(state.operations, on_change=self._changed)
        self.holders = Mirror(state.holders, on_change=self._changed)
        self.desired = Mirror(state.desired, on_change=self._changed)
        self.status = Mirror(state.status, on_change=self._changed)
        self.endpoints = Mirror(state.endpoints, on_change=self._changed)
        self.switches = Mirror(state.switches, on_change=self._changed)

    @property
    def parts(self) -> tuple[Mirror[Any], ...]:
        return (
            self.apps, self.operations, self.holders, self.desired, self.status, self.endpoints, self.switches,
        )  # fmt: skip

    @property
    def trouble(self) -> str:
        """Why the store cannot be followed now; "" when it can."""
        return next((part.trouble for part in self.parts if part.trouble), "")

    @property
    def unreadable(self) -> dict[str, str]:
        """Key → why nobody here can read it."""
        return {key: why for part in self.parts for key, why in sorted(part.bad.items())}

    def _changed(self) -> None:
        self.bell.ring()
        self._on_change()

    def statuses(self, app: str) -> dict[str, ProcStatus]:
        """proc → status, of one app."""
        return {s.value.proc: s.value for s in self.status.snapshot().values() if s.value.app == app}

    def switches_on(self) -> dict[str, str]:
        """Switch → why, of those in force."""
        return {stored.value.name: stored.value.why for stored in self.switches.snapshot().values() if stored.value.on}

    def running(self) -> list[Scene] | None:
        """The apps that have an operation, as far as memory goes; None when it cannot name them all."""
        if not all(part.ready for part in self.parts) or self.operations.bad or self.trouble:
            return None
        running = {stored.value.app for stored in self.operations.snapshot().values()}
        return [scene for scene in self.scenes(running) if scene.operation is not None] if running else []

    def scenes(self, only: Collection[str] | None = None) -> Iterator[Scene]:
        """Every registered app, or ``only`` those, as far as memory goes."""
        desired: dict[str, dict[str, Stored[Desired]]] = defaultdict(dict)
        status: dict[str, dict[str, ProcStatus]] = defaultdict(dict)
        endpoints: dict[str, dict[str, Endpoints]] = defaultdict(dict)
        for wanted in self.desired.snapshot().values():
            desired[wanted.value.app][wanted.value.proc] = wanted
        for seen in self.status.snapshot().values():
            status[seen.value.app][seen.value.proc] = seen.value
        for routed in self.endpoints.snapshot().values():
            endpoints[routed.value.app][routed.value.proc] = routed.value
        for _, app in sorted(self.apps.snapshot().items()):
            name = app.value.name
            if only is not None and name not in only:
                continue
            yield Scene(
                app,
                self.operations.get(name),
                self.holders.get(name),
                _of(desired, name),
                _of(status, name),
                _of(endpoints, name),
            )


def _of(found: Mapping[str, Mapping[str, T]], app: str) -> Mapping[str, T]:
    return found.get(app, {})
