"""The images that apps may go back to: asked of the store each time the disk is to be cleared, for what is remembered may be too little."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from lain_deployd.agent.spec import reference_of
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.model.image import KeptImages
from lain_shared.records import Records
from lain_shared.store import Store

log = structlog.get_logger()


class Kept:
    """Reads ``kept-images``. Rarely, so nothing of it is held in memory."""

    def __init__(self, store: Store, registry: str) -> None:
        self._records = Records(store, keys.KEPT_IMAGES, KeptImages)
        self._registry = registry
        self._trouble = ""
        self.bad: Mapping[str, str] = {}
        """Records that could not be read when last asked for: key → why."""

    async def read(self, running: frozenset[str] = frozenset()) -> frozenset[str] | None:
        """As this node's Engine names them; None: nobody can say now, so that any image may be one.

        ``running``: images of pods that are to run here. Their releases can be gone back to: where one is not kept, the console is of
        before there were such records.
        """
        try:
            found, self.bad = await self._records.list_readable()
        except LainError as error:
            self._tell(f"{error.message}: {error.why}" if error.why else error.message)
            return None
        kept = frozenset(reference_of(image, self._registry) for stored in found for image in stored.value.images)
        unsaid = sorted(running - kept)
        self._tell("; ".join(self.bad.values()) or (f"no release keeps {unsaid[0]}, which runs here" if unsaid else ""))
        return None if self.bad or unsaid else kept

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("kept_images_unknown", error=trouble)
        self._trouble = trouble
