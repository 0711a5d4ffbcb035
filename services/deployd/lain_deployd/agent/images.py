"""Images on this node: brought here once however many pods wait, and cleared away only when the disk is filling up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from lain_deployd.agent.engine import Credentials, Engine, EngineUnavailable, Image, ImageMissing, PullProgress
from lain_shared.errors import LainError

log = structlog.get_logger()

PARALLEL_PULLS = 2
NEWS_SECONDS = 1.0
"""Progress is told no more often: every telling is a write to the store."""
MIB = 1024 * 1024


def words(progress: PullProgress) -> str:
    """Progress for people, coarse enough not to be news ten times a second."""
    if progress.total_bytes < MIB:
        return "pulling"
    return f"pulling {progress.done_bytes // MIB} of {progress.total_bytes // MIB} MB"


@dataclass
class _Search:
    """One image looked for, and pulled if need be, and everyone who waits for it."""

    task: asyncio.Task[Image]
    listeners: list[Callable[[str], None]]


class Images:
    """The images of this node. ``used`` remembers what the agent itself brought, and when it was last needed."""

    def __init__(
        self, engine: Engine, credentials: Callable[[], Credentials | None], clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._credentials = credentials
        self._clock = clock
        self._searches: dict[str, _Search] = {}
        self._known: dict[str, Image] = {}
        self._gate = asyncio.Semaphore(PARALLEL_PULLS)
        self.used: dict[str, float] = {}
        self.on_used: Callable[[Mapping[str, float]], None] = lambda _used: None
        self.on_step: Callable[[str, float], None] = lambda _step, _seconds: None

    async def have(self, reference: str, on_progress: Callable[[str], None]) -> Image:
        """The image, brought here if it is not: ``ImageMissing``, ``RegistryUnreachable`` when it cannot be."""
        if reference in self.used:
            self._note_use(reference)
        if (known := self._known.get(reference)) is not None:
            return known
        search = self._searches.get(reference)
        if search is None:
            listeners: list[Callable[[str], None]] = []
            task = asyncio.create_task(self._find(reference, listeners), name=f"image {reference}")
            search = self._searches[reference] = _Search(task, listeners)
        search.listeners.append(on_progress)
        try:
            return await asyncio.shield(search.task)
        finally:
            search.listeners.remove(on_progress)
            if not search.listeners:
                del self._searches[reference]  # before it is given up: who comes meanwhile begins one of his own
                search.task.cancel()  # nobody waits for it any more
                await asyncio.gather(search.task, return_exceptions=True)

    async def _find(self, reference: str, listeners: list[Callable[[str], None]]) -> Image:
        found = await self._engine.image(reference)
        if found is None:
            await self._pull(reference, listeners)
            self._note_use(reference)
            found = await self._engine.image(reference)
        if found is None:
            raise ImageMissing(f"image {reference} was pulled and is not there")
        self._known[reference] = found
        return found

    def _note_use(self, reference: str) -> None:
        self.used[reference] = self._clock()
        self.on_used(dict(self.used))

    def forget(self, reference: str) -> None:
        """It turned out not to be there any more."""
        self._known.pop(reference, None)

    async def _pull(self, reference: str, listeners: list[Callable[[str], None]]) -> None:
        told, told_at = "", 0.0

        def tell(progress: PullProgress) -> None:
            nonlocal told, told_at
            if (text := words(progress)) != told and time.monotonic() - told_at >= NEWS_SECONDS:
                told, told_at = text, time.monotonic()
                for listener in listeners:
                    listener(text)

        for listener in listeners:
            listener("pulling (waiting for other pulls)" if self._gate.locked() else "pulling")
        async with self._gate:
            began = self._clock()
            await self._engine.pull(reference, self._credentials(), tell)
            seconds = self._clock() - began
            self.on_step("pull", seconds)
            log.info("image_pulled", image=reference, seconds=round(seconds, 3))

    async def clear(self, needed: frozenset[str], full: Callable[[], bool]) -> tuple[str, ...]:
        """Remove what the agent brought and is not ``needed``, least recently used first, until the disk is no longer ``full``."""
        gone: list[str] = []
        for reference in sorted(self.used.keys() - needed, key=lambda one: self.used[one]):
            if not full():
                break
            try:
                removed = await self._engine.remove_image(reference)
            except EngineUnavailable:
                raise
            except LainError as error:  # the others may go all the same
                log.warning("image_not_removed", image=reference, error=error.message, why=error.why)
                continue
            if removed:
                self.used.pop(reference)
                self.on_used(dict(self.used))
                self.forget(reference)
                gone.append(reference)
                log.info("image_removed", image=reference)
        return tuple(gone)
