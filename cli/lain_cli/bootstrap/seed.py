"""What a new cluster's etcd holds before the first daemon starts: its users, its configuration, its first node and first token."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from lain_cli.bootstrap.files import write
from lain_cli.bootstrap.layout import OPERATOR, TOKEN_AUDIENCE, Spec
from lain_shared import keys
from lain_shared.errors import Conflict
from lain_shared.model.config import ClusterConfig, Jwks, Role, Token
from lain_shared.model.node import Node
from lain_shared.records import Records
from lain_shared.store import ABSENT, Store
from lain_shared.tokens import Signer

TOKEN_DAYS = 365
RENEW_DAYS = 30


def issuer_of(cluster: str) -> str:
    """The ``iss`` of this cluster's tokens."""
    return f"lain/{cluster}"


async def seed(store: Store, root: Path, spec: Spec, *, now: Callable[[], float] = time.time) -> tuple[str, ...]:
    """Write what is missing; what is there stays, except facts about this machine (ports, address). Returns a line for each change.

    ``store`` speaks as etcd's root. The first operator token is written to ``secrets/client/token`` (0600).
    """
    done: list[str] = []
    signer = Signer(root / "secrets" / keys.CONSOLE / "signing-key.pem", issuer_of(spec.cluster), TOKEN_AUDIENCE)
    await _jwks(store, signer, spec, done)
    await _cluster(store, spec, done)
    await _node(store, spec, done)
    await _operator(store, root, signer, now(), done)
    return tuple(done)


async def _jwks(store: Store, signer: Signer, spec: Spec, done: list[str]) -> None:
    records = Records(store, keys.CONFIG, Jwks)
    found = await records.get("jwks")
    if found is not None and any(key.get("kid") == signer.public["kid"] for key in found.value.keys):
        return
    others = found.value.keys if found is not None else ()
    wanted = Jwks((signer.public, *others), issuer_of(spec.cluster), TOKEN_AUDIENCE)
    await records.put(wanted, "jwks", expect=found.entry.mod_revision if found else ABSENT)
    done.append("published the key that tokens are checked with")


async def _cluster(store: Store, spec: Spec, done: list[str]) -> None:
    records = Records(store, keys.CONFIG, ClusterConfig)
    found = await records.get("cluster")
    fresh = ClusterConfig(name=spec.cluster, domain=spec.domain, timezone=spec.timezone)
    base = found.value if found is not None else fresh
    wanted = replace(
        base,
        router_http_port=spec.router_http_port,
        router_https_port=spec.router_https_port,
        registry_push=spec.registry_push,
    )
    if found is not None and wanted == base:
        return
    await records.put(wanted, "cluster", expect=found.entry.mod_revision if found else ABSENT)
    done.append("wrote the cluster's settings")


async def _node(store: Store, spec: Spec, done: list[str]) -> None:
    records = Records(store, keys.NODES, Node)
    found = await records.get(spec.node)
    if found is None:
        wanted = Node(spec.node, spec.address, spec.labels)
    elif found.value.address != spec.address:
        wanted = replace(found.value, address=spec.address)
    else:
        return
    await records.put(wanted, spec.node, expect=found.entry.mod_revision if found else ABSENT)
    done.append(f"registered node {spec.node} at {spec.address}")


async def _operator(store: Store, root: Path, signer: Signer, now: float, done: list[str]) -> None:
    file = root / "secrets" / "client" / "token"
    if file.exists() and ends_at(file.read_text()) > now + RENEW_DAYS * 86400:
        return  # one that has ended, or soon does, is issued anew: nobody else could let its only operator in again
    token = Token(
        id=secrets.token_urlsafe(16),
        name=OPERATOR,
        role=Role.OPERATOR,
        created_at=float(int(now)),
        created_by="bootstrap",
        expires_at=float(int(now) + TOKEN_DAYS * 86400),
    )
    try:
        await Records(store, keys.TOKENS, Token).put(token, token.id, expect=ABSENT)
    except Conflict as error:  # pragma: no cover - 128 random bits
        raise AssertionError("a token id came twice") from error
    write(file, signer.sign(token).encode(), uid=0, mode=0o600)
    done.append(f"issued a token of {OPERATOR}, good for {TOKEN_DAYS} days")


def ends_at(token: str) -> float:
    """When a token that we wrote ends (its ``exp``, RFC 7519), unverified: to know when to issue another; 0 for what is no token."""
    try:
        payload = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0.0
