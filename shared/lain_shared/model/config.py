"""``config/<name>`` and ``tokens/<id>``: the cluster's settings and the long-lived tokens it issued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """``config/cluster``: set at bootstrap."""

    name: str
    domain: str
    """The main domain, e.g. ``lain.localhost``: an app's default host is ``<app>.<domain>``."""
    extra_domains: tuple[str, ...] = ()
    network: str = "none"
    """``none``, or ``networkd`` once pods' addresses are routed between nodes."""
    pod_network: str = "172.20.0.0/16"
    node_lease_seconds: int = 5
    router_http_port: int = 80
    """The port people reach the router at (a local cluster may have had to shift it)."""
    router_https_port: int = 443
    registry_push: str = ""
    """``host:port`` at which clients push; agents have their own registry_endpoint setting."""
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Jwks:
    """``config/jwks``: the public keys that tokens are checked with (RFC 7517), newest first."""

    keys: tuple[Mapping[str, str], ...]
    issuer: str
    audience: str


class Role(StrEnum):
    """``operator``: everything. ``auditor``: read everything. ``admin``/``maintainer``/``viewer``: of the apps in the scope."""

    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMIN = "admin"
    MAINTAINER = "maintainer"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Token:
    """``tokens/<jti>``: an issued long-lived token. The token text itself is stored nowhere."""

    id: str
    name: str
    role: Role
    apps: tuple[str, ...] = ()
    """Apps it is good for; empty: every app."""
    created_at: float = 0.0
    created_by: str = ""
    expires_at: float = 0.0
    revoked: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
