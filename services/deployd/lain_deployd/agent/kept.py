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

    async def read(self) -> frozenset[str] | None:
        """As this node's Engine names them; None: nobody can say now, so that any image may be one."""
        try:
            found, self.bad = await self._records.list_readable()
        except LainError as error:
            self._tell(f"{error.message}: {error.why}" if error.why else error.message)
            return None
        self._tell("; ".join(self.bad.values()))
        if self.bad:
            return None
        return frozenset(reference_of(image, self._registry) for stored in found for image in stored.value.images)

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("kept_images_unknown", error=trouble)
        self._trouble = trouble
