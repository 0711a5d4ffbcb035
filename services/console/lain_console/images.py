"""Which images nodes keep: those of every release that a deployed app can go back to, so that going back pulls nothing.

Written in the transactions that write and forget releases; ``Keeping`` puts right what those could not: releases of before there was such
a record, and of an app that was out of service and is deployed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from lain_console.state import State
from lain_shared import keys
from lain_shared.errors import Conflict
from lain_shared.model.app import App, Release
from lain_shared.model.image import KeptImages
from lain_shared.records import Stored
from lain_shared.store import ABSENT, ModRevision, Write

log = structlog.get_logger()

AGAIN_SECONDS = 60.0
"""An app that has an operation is looked at again so soon."""


def images_of(release: Release) -> KeptImages:
    """What nodes keep of a release."""
    return KeptImages(release.app, release.number, tuple(sorted({each.template.image for each in release.procs})))


@dataclass(frozen=True, slots=True)
class Keeping:
    """The loop's pass: looks at one app after the other, and writes what is not as it should be."""

    state: State

    async def one_pass(self) -> float | None:
        """Returns when to look again at apps that are busy."""
        (apps, unreadable), there = await asyncio.gather(self.state.apps.list_readable(), self._there())
        registered: dict[str, Stored[App] | None] = {stored.value.name: stored for stored in apps}
        left = there.keys() - registered.keys() - {keys.APPS.parse(key)[0] for key in unreadable}
        settled = True
        for name, stored in (registered | dict.fromkeys(sorted(left))).items():
            settled &= await self._settle(name, stored, there.get(name, frozenset()))
        return None if settled else AGAIN_SECONDS

    async def _there(self) -> Mapping[str, frozenset[int]]:
        """app → the releases whose images are kept, whatever their records say."""
        found: dict[str, set[int]] = {}
        for entry in (await self.state.store.list(keys.KEPT_IMAGES.prefix)).entries:
            app, number = keys.KEPT_IMAGES.parse(entry.key)
            found.setdefault(app, set()).add(int(number))
        return {app: frozenset(numbers) for app, numbers in found.items()}

    async def _settle(self, name: str, stored: Stored[App] | None, there: frozenset[int]) -> bool:
        """False: somebody else changes the app now."""
        state, wanted, unread = self.state, {}, frozenset[int]()
        if stored is not None and stored.value.release is not None:
            releases, bad = await state.releases.list_readable(name)
            wanted = {each.value.number: each.value for each in releases}
            unread = frozenset(int(keys.RELEASES.parse(key)[1]) for key in bad)
        writes: list[Write] = [
            state.kept_images.put_op(images_of(release), name, number)
            for number, release in wanted.items()
            if number not in there
        ]
        writes.extend(state.kept_images.delete_op(name, number) for number in sorted(there - wanted.keys() - unread))
        if not writes:
            return True
        try:
            await state.store.txn(
                [
                    ModRevision(keys.APPS.key(name), ABSENT if stored is None else stored.entry.mod_revision),
                    ModRevision(keys.OPERATIONS.key(name), ABSENT),
                ],
                writes,
            )
        except Conflict:
            return False
        log.info("kept_images_settled", app=name, changes=len(writes))
        return True
