"""Bearer tokens, attacked: swapped algorithms, foreign keys, expired, unlisted, revoked, unknown keys, missing claims."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwt

from lain_shared.errors import Unauthenticated, Unavailable
from lain_shared.model.config import Jwks, Role, Token
from lain_shared.tokens import ALGORITHM, SHORT_SECONDS, Access, Principal, Signer, Verifier, public_jwk

NOW = 1_800_000_000.0
ISSUER, AUDIENCE = "console.test", "lain:test"


def new_key(directory: Path, name: str = "key.pem") -> tuple[ec.EllipticCurvePrivateKey, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / name
    pkcs8 = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
    return key, path


@dataclass
class Issued:
    key: ec.EllipticCurvePrivateKey
    signer: Signer
    token: Token
    text: str
    verifier: Callable[..., Verifier]
    jwks: Jwks

    def claims(self) -> dict[str, Any]:
        return dict(jwt.get_unverified_claims(self.text))

    def forge(
        self, claims: Mapping[str, Any], *, key: Any = None, algorithm: str = ALGORITHM, kid: str | None = None
    ) -> str:
        pem = (key or self.key).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        headers = {"kid": kid if kid is not None else self.signer.public["kid"]}
        return str(jwt.encode(dict(claims), pem, algorithm=algorithm, headers=headers))


@pytest.fixture
def issued(tmp_path: Path) -> Issued:
    key, path = new_key(tmp_path)
    signer = Signer(path, ISSUER, AUDIENCE)
    token = Token("t1", "ann", Role.MAINTAINER, ("hello",), NOW, "root", NOW + 86_400)
    jwks = Jwks((signer.public,), ISSUER, AUDIENCE)

    def verifier(listed: Mapping[str, Token] | None = None, now: float = NOW + 1) -> Verifier:
        tokens = {"t1": token} if listed is None else listed
        return Verifier(lambda: jwks, lambda: tokens, now=lambda: now)

    return Issued(key, signer, token, signer.sign(token), verifier, jwks)


def test_a_good_token_names_its_principal(issued: Issued) -> None:
    assert issued.verifier().verify(issued.text) == Principal("ann", Role.MAINTAINER, ("hello",))


def test_expired_revoked_unlisted_and_early_are_refused(issued: Issued) -> None:
    revoked = {"t1": replace(issued.token, revoked=True)}
    for verifier in (
        issued.verifier(now=NOW + 86_401),
        issued.verifier(now=NOW - 3600),
        issued.verifier(revoked),
        issued.verifier({}),
    ):
        with pytest.raises(Unauthenticated):
            verifier.verify(issued.text)


def test_only_a_short_lived_token_may_be_unlisted(issued: Issued) -> None:
    claims = issued.claims()
    short = issued.forge({**claims, "jti": "elsewhere", "exp": int(NOW) + SHORT_SECONDS})
    long = issued.forge({**claims, "jti": "elsewhere", "exp": int(NOW) + SHORT_SECONDS + 1})
    assert issued.verifier().verify(short).name == "ann"
    with pytest.raises(Unauthenticated):
        issued.verifier().verify(long)


@pytest.mark.parametrize("claim", ["aud", "iss", "sub", "jti", "exp", "nbf", "iat", "role", "apps"])
def test_no_claim_may_be_missing(issued: Issued, claim: str) -> None:
    claims = {**issued.claims(), "jti": "elsewhere", "exp": int(NOW) + 60}
    del claims[claim]
    with pytest.raises(Unauthenticated):
        issued.verifier().verify(issued.forge(claims))


@pytest.mark.parametrize("change", [{"aud": "other"}, {"iss": "other"}, {"sub": "eve"}, {"exp": "soon"}, {"nbf": None}])
def test_no_claim_may_be_wrong(issued: Issued, change: dict[str, Any]) -> None:
    claims = issued.claims() | {"exp": int(NOW) + 60} | change
    pem = issued.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    text = _raw(issued, claims, pem)
    with pytest.raises(Unauthenticated):
        issued.verifier().verify(text)


def _raw(issued: Issued, claims: Mapping[str, Any], pem: bytes) -> str:
    """Sign without python-jose's own checks of claim types."""
    from jose import jws

    return str(
        jws.sign(json.dumps(claims).encode(), pem, headers={"kid": issued.signer.public["kid"]}, algorithm=ALGORITHM)
    )


def test_a_foreign_key_is_refused_under_either_key_id(issued: Issued) -> None:
    foreign = ec.generate_private_key(ec.SECP256R1())
    for kid in (issued.signer.public["kid"], public_jwk(foreign.public_key())["kid"], "", "nobody"):
        with pytest.raises(Unauthenticated):
            issued.verifier().verify(issued.forge(issued.claims(), key=foreign, kid=kid))


def test_the_public_key_is_no_shared_secret(issued: Issued) -> None:
    """The HS256 confusion: the attacker signs with the public key, in every form in which it is published."""
    public = issued.key.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    forms = [
        public.public_bytes(encoding, spki) for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
    ]
    forms.append(json.dumps(issued.signer.public).encode())
    for secret in forms:
        for algorithm in ("HS256", "hs256", "none", "ES256"):
            header = _encode({"alg": algorithm, "typ": "JWT", "kid": issued.signer.public["kid"]})
            signed = f"{header}.{_encode(issued.claims())}"
            signature = _base64(hmac.digest(secret, signed.encode(), "sha256"))
            for text in (f"{signed}.{signature}", f"{signed}."):
                with pytest.raises(Unauthenticated):
                    issued.verifier().verify(text)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _encode(document: object) -> str:
    return _base64(json.dumps(document).encode())


@pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "a.b", "a.b.c.d.e", "\x00.\x00.\x00", "é.é.é", "A" * 5000])
def test_nonsense_is_refused_without_a_trace(issued: Issued, text: str) -> None:
    with pytest.raises(Unauthenticated):
        issued.verifier().verify(text)


def test_while_the_list_is_unknown_nobody_passes(issued: Issued) -> None:
    def away() -> Mapping[str, Token]:
        raise Unavailable("etcd is away")

    for verifier in (
        Verifier(lambda: issued.jwks, lambda: None),
        Verifier(lambda: None, lambda: {}),
        Verifier(lambda: issued.jwks, away),
    ):
        with pytest.raises(Unavailable) as told:
            verifier.verify(issued.text)
        assert told.value.why and told.value.next == "lainctl doctor"


ROLES = [
    (Role.OPERATOR, set(Access) - {Access.PUBLIC}),
    (Role.AUDITOR, {Access.AUTHENTICATED, Access.READ}),
    (Role.ADMIN, {Access.AUTHENTICATED, Access.READ, Access.DEPLOY, Access.ADMIN}),
    (Role.MAINTAINER, {Access.AUTHENTICATED, Access.READ, Access.DEPLOY}),
    (Role.VIEWER, {Access.AUTHENTICATED, Access.READ}),
]


@pytest.mark.parametrize(("role", "allowed"), ROLES)
def test_roles(role: Role, allowed: set[Access]) -> None:
    scoped, everywhere = Principal("x", role, ("hello",)), Principal("x", role)
    for access in Access:
        if access is Access.PUBLIC:
            continue
        assert scoped.may(access, "hello") == (access in allowed)
        assert everywhere.may(access, "hello") == (access in allowed)
        if access is not Access.AUTHENTICATED and role is not Role.OPERATOR:
            assert not scoped.may(access, "other")
            assert not scoped.may(access, None)


def test_a_daemon_may_only_what_daemons_may() -> None:
    daemon = Principal("watcher", None, kind="daemon")
    assert {access for access in Access if daemon.may(access, "hello")} == {
        Access.PUBLIC,
        Access.AUTHENTICATED,
        Access.DAEMON,
    }
