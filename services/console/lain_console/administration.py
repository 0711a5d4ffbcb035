"""Use cases of operators: the cluster's configuration, and long-lived tokens."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from lain_console.state import CLUSTER, State
from lain_sdk.api_types import ConfigView, IssuedToken, TokenView
from lain_shared import keys
from lain_shared.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from lain_shared.model.config import ClusterConfig, Jwks, Role, Token
from lain_shared.records import encode
from lain_shared.tokens import Signer

log = structlog.get_logger()

KNOWN_CONFIG: Mapping[str, type[Any]] = {CLUSTER: ClusterConfig, "jwks": Jwks}
PROTECTED_CONFIG = frozenset({"jwks"})
"""Written by bootstrap and key rotation only: a wrong value locks everybody out."""
FIXED_CONFIG = ("name", "network", "pod_network")
DEFAULT_TOKEN_SECONDS = 90 * 86400.0
MAX_TOKEN_SECONDS = 3 * 365 * 86400.0
CLUSTER_WIDE = frozenset({Role.OPERATOR, Role.AUDITOR})


@dataclass(frozen=True, slots=True)
class Signing:
    """The key that tokens are signed with, used only while the cluster publishes its public half."""

    key_file: Path | None
    jwks: Callable[[], Jwks | None]

    def signer(self) -> Signer:
        """Raises ``Unavailable``: no key here, nothing published yet, or another key published."""
        if self.key_file is None:
            raise Unavailable(
                "this console has no signing key and issues no tokens",
                next="set LAIN_CONSOLE_SIGNING_KEY, or ask another replica",
                code="no_signing_key",
            )
        jwks = self.jwks()
        if jwks is None:
            raise Unavailable(
                "this cluster publishes no keys yet", next="bootstrap it: lainctl bootstrap", code="not_bootstrapped"
            )
        signer = Signer(self.key_file, jwks.issuer, jwks.audience)
        if all(key.get("kid") != signer.public["kid"] for key in jwks.keys):
            raise Unavailable(
                "the signing key of this console is not among those the cluster trusts",
                why="its tokens would be refused everywhere",
                next="give this replica the current key file",
                code="foreign_signing_key",
            )
        return signer


@dataclass(frozen=True, slots=True)
class Administration:
    """Configuration and tokens."""

    state: State
    signing: Signing
    now: Callable[[], float] = field(repr=False)

    # --- configuration ------------------------------------------------------------------------------------------------

    async def config_names(self) -> tuple[str, ...]:
        listing = await self.state.store.list(keys.CONFIG.prefix)
        return tuple(keys.CONFIG.parse(entry.key)[0] for entry in listing.entries)

    async def config(self, name: str) -> ConfigView:
        entry = await self.state.store.get(keys.CONFIG.key(name))
        if entry is None:
            raise NotFound(f"there is no configuration {name!r}", code="config_not_found")
        document = msgspec.json.decode(entry.value)
        document.pop("v", None)
        return ConfigView(name, document, entry.mod_revision)

    async def set_config(self, name: str, value: Mapping[str, Any], revision: int | None, who: str) -> ConfigView:
        """Replace ``config/<name>`` by a value that was judged; ``revision``: only if it is still that one.

        Raises ``NotFound``, ``Refused``, ``Conflict``.
        """
        self.require_changeable(name)
        await self._require_kept(name, value)
        record = msgspec.convert(dict(value), KNOWN_CONFIG[name])
        try:
            written = await self.state.store.put(
                keys.CONFIG.key(name), encode(record, keys.CONFIG.version), expect=revision
            )
        except Conflict as error:
            raise Conflict(
                f"config/{name} was changed by somebody else", next="read it again, then write", code="config_changed"
            ) from error
        log.info("config_changed", name=name, who=who, revision=written)
        return await self.config(name)

    async def _require_kept(self, name: str, value: Mapping[str, Any]) -> None:
        """What bootstrap decided and the whole cluster stands on stays as it is."""
        stored = await self.state.store.get(keys.CONFIG.key(name))
        known = msgspec.json.decode(stored.value) if stored is not None else {}
        changed = [each for each in FIXED_CONFIG if each in known and value.get(each) != known[each]]
        if changed:
            raise Refused(
                f"config/{name} keeps its {', '.join(changed)}",
                why="it was decided at bootstrap: certificates, address blocks and nodes stand on it",
                next="make a new cluster for another one",
                code="fixed_config",
            )

    @staticmethod
    def require_changeable(name: str) -> None:
        """Only what is known, so that its value can be judged, and what locks nobody out."""
        if name not in KNOWN_CONFIG:
            raise NotFound(
                f"there is no configuration {name!r}",
                next=f"what can be changed: {', '.join(sorted(KNOWN_CONFIG.keys() - PROTECTED_CONFIG))}",
                code="config_not_found",
            )
        if name in PROTECTED_CONFIG:
            raise Refused(
                f"config/{name} is not changed here",
                why="a wrong value would lock everybody out",
                next="rotate keys with lainctl",
                code="protected_config",
            )

    # --- tokens -------------------------------------------------------------------------------------------------------

    async def tokens(self) -> tuple[TokenView, ...]:
        tokens, _ = await self.state.tokens.list_readable()
        return tuple(token_view(stored.value) for stored in tokens)

    async def issue(self, name: str, role: Role, apps: Sequence[str], seconds: float | None, who: str) -> IssuedToken:
        """A new token; its text is in the answer and nowhere else."""
        signer = self.signing.signer()
        if role in CLUSTER_WIDE and apps:
            raise Invalid(f"the role {role.value} is cluster-wide: it takes no list of apps", code="invalid_scope")
        now = self.now()
        seconds = DEFAULT_TOKEN_SECONDS if seconds is None else seconds
        if not 0 < seconds <= MAX_TOKEN_SECONDS:
            raise Invalid(
                f"a token lives between a second and {MAX_TOKEN_SECONDS / 86400:.0f} days", code="invalid_expiry"
            )
        token = Token(secrets.token_hex(8), name, role, tuple(sorted(set(apps))), now, who, now + seconds)
        text = signer.sign(token)
        await self.state.tokens.put(token, token.id, expect=0)
        log.info("token_issued", id=token.id, name=name, role=role.value, apps=list(token.apps), who=who)
        return IssuedToken(token_view(token), text)

    async def revoke(self, token_id: str, who: str) -> None:
        """From now on it is refused, everywhere the mirror of tokens reaches (about a second). Twice is the same as once."""
        stored = await self.state.tokens.get(token_id)
        if stored is None:
            raise NotFound(
                f"there is no token {token_id!r}", next="see them: lainctl token list", code="token_not_found"
            )
        if not stored.value.revoked:
            await self.state.tokens.put(replace(stored.value, revoked=True), token_id, expect=stored.entry.mod_revision)
            log.info("token_revoked", id=token_id, name=stored.value.name, who=who)

    async def sweep(self) -> None:
        """Forget tokens that expired: their text is refused by its own date."""
        now = self.now()
        tokens, _ = await self.state.tokens.list_readable()
        for stored in tokens:
            if now > stored.value.expires_at + 3600:
                await self.state.tokens.delete(stored.value.id, expect=stored.entry.mod_revision)
                log.info("token_swept", id=stored.value.id, name=stored.value.name)


def token_view(token: Token) -> TokenView:
    return TokenView(
        token.id,
        token.name,
        token.role,
        token.apps,
        token.created_at,
        token.created_by,
        token.expires_at,
        token.revoked,
    )
