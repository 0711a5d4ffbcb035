"""Bearer tokens: ES256 JWTs (RFC 7519), signed by a key only their issuer can read, verified offline by the cluster's JWKS.

The one module that touches python-jose, used defensively because of its known faults: key objects only, exactly one asymmetric
algorithm, every claim required, the ``kid`` looked up by us before the library sees the token. A long-lived token must be listed in
``tokens/`` and not be revoked there; only short ones (``SHORT_SECONDS``) may be unlisted. While that list is unknown, nobody passes
(``Unavailable``): closed by default.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt
from jose.exceptions import JOSEError, JWTError

from lain_shared.errors import LainError, Unauthenticated, Unavailable
from lain_shared.model.config import Jwks, Role, Token

ALGORITHM = "ES256"
LEEWAY_SECONDS = 30
MAX_LENGTH = 4096
SHORT_SECONDS = 3600
"""Tokens that live no longer than this need not be listed: they end before anybody could revoke them."""


class Access(StrEnum):
    """What a handler asks of its caller. ``{app}`` is the app in the URL."""

    PUBLIC = "public"
    """Anyone, nobody checks: health, metrics, documentation."""
    AUTHENTICATED = "authenticated"
    """Anyone who proved who they are; the handler narrows what they see."""
    READ = "read"
    """Viewer, maintainer or admin of the app; auditor; operator."""
    DEPLOY = "deploy"
    """Maintainer or admin of the app; operator."""
    ADMIN = "admin"
    """Admin of the app; operator."""
    OPERATOR = "operator"
    DAEMON = "daemon"
    """Another daemon, by certificate; operator."""


_ROLES: Mapping[Access, frozenset[Role]] = {
    Access.READ: frozenset({Role.VIEWER, Role.MAINTAINER, Role.ADMIN, Role.AUDITOR}),
    Access.DEPLOY: frozenset({Role.MAINTAINER, Role.ADMIN}),
    Access.ADMIN: frozenset({Role.ADMIN}),
    Access.OPERATOR: frozenset(),
    Access.DAEMON: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: a person or script with a token, or a daemon with a certificate."""

    name: str
    role: Role | None
    apps: tuple[str, ...] = ()
    """Apps the role is good for; empty: all."""
    kind: Literal["token", "daemon"] = "token"

    def may(self, access: Access, app: str | None = None) -> bool:
        if access in (Access.PUBLIC, Access.AUTHENTICATED):
            return True
        if self.kind == "daemon":
            return access is Access.DAEMON
        if self.role is Role.OPERATOR:
            return True
        if self.role not in _ROLES[access]:
            return False
        return self.sees(app) if app is not None else not self.apps

    def sees(self, app: str) -> bool:
        """Whether its scope covers ``app``."""
        return not self.apps or app in self.apps


def key_id(public_key: ec.EllipticCurvePublicKey) -> str:
    """The ``kid`` of a key: the first 16 hex digits of the SHA-256 of its DER SubjectPublicKeyInfo."""
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def public_jwk(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """The public key as it stands in a JWKS (RFC 7517)."""
    pem = public_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    document = jwk.construct(pem, ALGORITHM).to_dict()
    wanted = {name: _text(document[name]) for name in ("kty", "crv", "x", "y")}
    return {**wanted, "kid": key_id(public_key), "alg": ALGORITHM, "use": "sig"}


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


class Signer:
    """Signs tokens with the private key in ``key_file`` (PEM, P-256, unencrypted, readable by its issuer only)."""

    def __init__(self, key_file: Path, issuer: str, audience: str) -> None:
        try:
            pem = key_file.read_bytes()
            private = serialization.load_pem_private_key(pem, password=None)
        except (OSError, ValueError) as error:
            raise Unavailable(
                f"the signing key {key_file} cannot be read", why=str(error), code="bad_signing_key"
            ) from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
            raise Unavailable(f"the signing key {key_file} is not an EC P-256 key", code="bad_signing_key")
        self._key = jwk.construct(pem, ALGORITHM)
        self.public = public_jwk(private.public_key())
        self._issuer, self._audience = issuer, audience

    def sign(self, token: Token) -> str:
        """The text of ``token``; it is good until ``token.expires_at``."""
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": token.name,
            "jti": token.id,
            "role": token.role.value,
            "apps": list(token.apps),
            "iat": int(token.created_at),
            "nbf": int(token.created_at),
            "exp": int(token.expires_at),
        }
        return str(jwt.encode(claims, self._key, algorithm=ALGORITHM, headers={"kid": self.public["kid"]}))


class Verifier:
    """Checks bearer tokens. ``jwks`` and ``tokens`` give what is known now; they raise or return None while it is not."""

    def __init__(
        self,
        jwks: Callable[[], Jwks | None],
        tokens: Callable[[], Mapping[str, Token] | None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._jwks, self._tokens, self._now = jwks, tokens, now
        self._keys: dict[str, tuple[Mapping[str, str], Any]] = {}

    def verify(self, text: str) -> Principal:
        """The principal a token stands for. ``Unauthenticated`` says only that it is not good; ``Unavailable`` that nobody can tell now."""
        jwks, tokens = self._known()
        if len(text) > MAX_LENGTH or text.count(".") != 2:
            raise _refused("it is not a token of this cluster")
        try:
            header = jwt.get_unverified_header(text)
        except JOSEError as error:
            raise _refused("it is not a token") from error
        if header.get("alg") != ALGORITHM or "crit" in header:
            raise _refused(f"it is not signed with {ALGORITHM}")
        published = next((key for key in jwks.keys if key.get("kid") == header.get("kid")), None)
        if published is None or published.get("alg") != ALGORITHM or published.get("kty") != "EC":
            raise _refused("it is signed with a key this cluster does not know")
        claims = self._claims(text, self._key(published), jwks)
        listed = tokens.get(str(claims["jti"]))
        if listed is None:
            return _short_lived(claims)
        if listed.revoked:
            raise _refused("it was revoked")
        if self._now() >= listed.expires_at:
            raise _refused("it has expired")
        if listed.name != claims["sub"]:
            raise _refused("it says something else than the cluster's list")
        return Principal(listed.name, listed.role, listed.apps)

    def _known(self) -> tuple[Jwks, Mapping[str, Token]]:
        try:
            jwks, tokens = self._jwks(), self._tokens()
        except LainError as error:
            why = f"{error.message}: {error.why}" if error.why else error.message
            code = error.error_code if isinstance(error, Unavailable) else None
            raise _nobody_knows(why, next=error.next, code=code) from error
        if jwks is None or tokens is None:
            raise _nobody_knows("the keys or the list of tokens have not been read yet")
        return jwks, tokens

    def _key(self, published: Mapping[str, str]) -> Any:
        kid = published["kid"]
        cached = self._keys.get(kid)
        if cached is None or cached[0] != published:
            try:
                cached = (published, jwk.construct(dict(published), ALGORITHM))
            except JOSEError as error:
                raise _nobody_knows(f"the published key {kid} is damaged") from error
            self._keys[kid] = cached
        return cached[1]

    def _claims(self, text: str, key: Any, jwks: Jwks) -> dict[str, Any]:
        # python-jose checks times by a clock of its own as soon as it requires them: times are required and checked below instead
        required = {f"require_{name}": True for name in ("aud", "iss", "sub", "jti")}
        options = {**required, "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            claims: dict[str, Any] = jwt.decode(
                text, key, algorithms=[ALGORITHM], audience=jwks.audience, issuer=jwks.issuer, options=options
            )
            expires_at, not_before, _ = (float(claims[name]) for name in ("exp", "nbf", "iat"))
        except (JWTError, JOSEError, KeyError, TypeError, ValueError) as error:
            raise _refused("its signature or claims do not hold") from error
        now = self._now()
        if now >= expires_at + LEEWAY_SECONDS:
            raise _refused("it has expired")
        if now < not_before - LEEWAY_SECONDS:
            raise _refused("it is not valid yet: a clock is off")
        return claims


def _short_lived(claims: Mapping[str, Any]) -> Principal:
    """The principal of a token that is not listed, which only a short-lived one may be."""
    apps = claims.get("apps")
    try:
        role = Role(str(claims.get("role")))
        lifetime = float(claims["exp"]) - float(claims["iat"])
    except (TypeError, ValueError) as error:
        raise _refused("its claims do not hold") from error
    if not 0 < lifetime <= SHORT_SECONDS:
        raise _refused("it is not listed here")
    if not isinstance(apps, list) or not all(isinstance(app, str) for app in apps):
        raise _refused("its claims do not hold")
    return Principal(str(claims["sub"]), role, tuple(apps))


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated("the token was refused", why=why, next="lain login --token …")


def _nobody_knows(why: str, *, next: str = "", code: str | None = None) -> Unavailable:
    return Unavailable(
        "tokens cannot be checked now",
        why=why,
        next=next or "lainctl doctor",
        code=code or "auth_unavailable",
        retry_seconds=1.0,
    )
