"""What bootstrap puts where, and for whom: pure. One folder, ``/etc/lain`` on a node, of which each container sees only its own parts.

ca/ca.pem  ca/ca-key.pem                 the authority; its key is root's
tls/<user>/{ca,cert,key}.pem             one per daemon; ``<user>`` is the etcd user, the certificate's common name
secrets/console/signing-key.pem          signs tokens; published in config/jwks
secrets/console/registry-password        and agent/, client/: the registry's users ``console``, ``agent``, ``push``
secrets/registry/htpasswd                the same, hashed
secrets/client/token                     the first operator token
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lain_cli.bootstrap.pki import Leaf
from lain_shared import keys

ROOT_USER = "root"
"""etcd's administrator: its certificate is used by bootstrap alone."""

UIDS = {
    "etcd": 2379,
    "registry": 5000,
    keys.CONSOLE: 9510,
    keys.DEPLOYD: 9511,
    keys.WATCHER: 9530,
    keys.AGENT: 0,
    ROOT_USER: 0,
}
"""The user each part runs as in its container, and who owns its files: the number of its port, root where it must be."""

DATA = {
    "etcd": ("etcd", 0o700),
    "registry": ("registry", 0o700),
    "agent": (keys.AGENT, 0o700),
    "volumes": (keys.AGENT, 0o711),
    "router": (keys.WATCHER, 0o700),
    "certificates": (keys.WATCHER, 0o700),
}
"""Folder under ``/var/lib/lain`` → whose it is, and its mode."""

REGISTRY_USERS = {"push": "client", "agent": keys.AGENT, "console": keys.CONSOLE}
"""User of the registry → whose folder under ``secrets/`` holds its password."""

TOKEN_AUDIENCE = "lain"  # noqa: S105 - a public claim, no secret
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Spec:
    """What an operator decides of a new cluster. ``address``: of this node, as others reach it."""

    cluster: str
    node: str
    address: str
    domain: str = "lain.localhost"
    router_http_port: int = 80
    router_https_port: int = 443
    registry_push: str = "127.0.0.1:5000"
    timezone: str = "UTC"
    names: tuple[str, ...] = ()
    """Further names or addresses the daemons are reached by."""
    labels: dict[str, str] = field(default_factory=lambda: {"router": "true", "group": "default"})


@dataclass(frozen=True, slots=True)
class Identity:
    """One certificate: the folder under ``tls/``, who owns it, what it says."""

    user: str
    uid: int
    leaf: Leaf


def identities(spec: Spec) -> tuple[Identity, ...]:
    """Every certificate of a node that runs all parts."""
    near = tuple(dict.fromkeys((spec.address, "127.0.0.1", "localhost", spec.node, *spec.names)))

    def serves(daemon: str, user: str, *, client: bool = True) -> Identity:
        return Identity(user, UIDS[daemon], Leaf(user, (*near, daemon, f"{daemon}.{spec.domain}"), client))

    return (
        serves("etcd", "etcd"),
        serves("registry", "registry", client=False),
        serves(keys.CONSOLE, keys.user_of(keys.CONSOLE)),
        serves(keys.DEPLOYD, keys.user_of(keys.DEPLOYD)),
        serves(keys.AGENT, keys.user_of(keys.AGENT, spec.node)),
        serves(keys.WATCHER, keys.user_of(keys.WATCHER)),
        Identity(ROOT_USER, UIDS[ROOT_USER], Leaf(ROOT_USER)),
    )
