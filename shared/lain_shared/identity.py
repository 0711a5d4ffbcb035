"""Who may call a daemon's API: the cluster's keys and tokens in memory, and the ``Verifier`` that reads them. The same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from lain_shared import keys
from lain_shared.loop import Part
from lain_shared.mirror import Mirror
from lain_shared.model.config import Jwks, Token
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.tokens import Verifier


class Identity:
    """Put ``parts`` into the daemon and ``verifier`` into its API. Until both families are whole, nobody passes."""

    def __init__(self, store: Store) -> None:
        self.config: Mirror[dict[str, Any]] = Mirror(Records(store, keys.CONFIG, dict[str, Any]))
        """``config/<name>`` as documents: each name has a type of its own."""
        self.tokens: Mirror[Token] = Mirror(Records(store, keys.TOKENS, Token))
        self.verifier = Verifier(self._jwks, self._tokens)

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.config, self.tokens

    def _jwks(self) -> Jwks | None:
        stored = self.config.get("jwks")
        return None if stored is None else msgspec.convert(stored.value, Jwks)

    def _tokens(self) -> Mapping[str, Token]:
        return {stored.value.id: stored.value for stored in self.tokens.snapshot().values()}
