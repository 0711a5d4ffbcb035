"""Whom a daemon trusts: the cluster's keys and issued tokens, mirrored, so that a token is judged without asking anyone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.mirror import Mirror
from lain_shared.model.config import Jwks, Token
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.tokens import Verifier

JWKS = "jwks"


class Trust:
    """``parts`` run in the daemon; ``verifier`` is what its HTTP API is built with. Until both mirrors are whole nobody passes."""

    def __init__(self, store: Store) -> None:
        self._config: Mirror[dict[str, Any]] = Mirror(Records(store, keys.CONFIG, dict[str, Any]))
        self._tokens = Mirror(Records(store, keys.TOKENS, Token))
        self.parts: tuple[Mirror[dict[str, Any]], Mirror[Token]] = (self._config, self._tokens)
        self.verifier = Verifier(self.jwks, self.tokens)
        self._read: tuple[int, Jwks] | None = None
        self._listed: tuple[int, Mapping[str, Token]] | None = None

    def jwks(self) -> Jwks | None:
        """The public keys; None before bootstrap published any. Raises ``NotYetWhole`` while unknown."""
        stored = self._config.get(JWKS)
        if stored is None:
            return None
        if self._read is None or self._read[0] != stored.entry.mod_revision:
            try:
                self._read = (stored.entry.mod_revision, msgspec.convert(stored.value, Jwks))
            except msgspec.ValidationError as error:
                raise LainError("config/jwks cannot be read", why=str(error), code="bad_record") from error
        return self._read[1]

    def tokens(self) -> Mapping[str, Token]:
        """Token id → token. Raises ``NotYetWhole`` while unknown. Read anew only when the mirror moved."""
        revision = self._tokens.revision
        if self._listed is None or self._listed[0] != revision:
            self._listed = (revision, {stored.value.id: stored.value for stored in self._tokens.snapshot().values()})
        return self._listed[1]
