"""Routes and endpoints: how a host and a path lead to addresses, and who owns which name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """``host`` + ``path`` (``/`` or ``/x/y``, no trailing slash) lead to a proc.

    A path other than ``/`` is stripped before the app sees it.
    """

    host: str
    path: str = "/"
    https_only: bool = False

    def __str__(self) -> str:
        return self.host if self.path == "/" else self.host + self.path


@dataclass(frozen=True, slots=True)
class ProxyOptions:
    """What a manifest may ask of the router for one proc. None: the router's default."""

    read_timeout_seconds: int | None = None
    max_body_bytes: int | None = None
    buffering: bool | None = None
    sticky: bool | None = None


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One pod a router may send requests to. ``address`` is IPv4, without port."""

    instance: int
    generation: int
    address: str
    port: int = 0
    """The port this pod listens on; 0: ``Endpoints.port``. Differs while a release that changes the port is rolled out."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """``endpoints/<app>/<proc>``: all that routers read. Its revision is the key's mod revision.

    Routers use ``ready``; ``suspect`` (pods of lost nodes, not yet replaced) after all others; ``draining`` for nothing new.
    A pod that was ever routed stays in one of the three until it is gone: one that stopped being ready waits in ``draining``
    and comes back.
    """

    app: str
    proc: str
    port: int
    routes: tuple[Route, ...] = ()
    proxy: ProxyOptions = field(default_factory=ProxyOptions)
    release: int = 0
    ready: tuple[Endpoint, ...] = ()
    suspect: tuple[Endpoint, ...] = ()
    draining: tuple[Endpoint, ...] = ()

    @property
    def addresses(self) -> frozenset[str]:
        return frozenset(endpoint.address for endpoint in (*self.ready, *self.suspect, *self.draining))


@dataclass(frozen=True, slots=True)
class HostClaim:
    """``hosts/<host>``: the app that owns a host name, and the other apps it lets claim paths on it."""

    host: str
    owner: str
    guests: tuple[str, ...] = ()
    default: bool = False
    """Reserved at registration (a default host); released with the registration, not with a release."""


@dataclass(frozen=True, slots=True)
class RouteClaim:
    """``routes/<host>/<path>``: the proc a route leads to."""

    host: str
    path: str
    app: str
    proc: str


@dataclass(frozen=True, slots=True)
class PortClaim:
    """``ports/<proto>/<port>``: the proc a cluster-wide stream port leads to."""

    proto: str
    port: int
    app: str
    proc: str


@dataclass(frozen=True, slots=True)
class RouterMember:
    """``router-members/<router>``: a router that exists, whether its watcher is alive or not."""

    router: str
    node: str
    since: float


@dataclass(frozen=True, slots=True)
class RouterState:
    """``routers/<router>`` (leased): what this router's nginx has really applied.

    ``applied_revision``: every change of ``endpoints`` up to this store revision is in nginx's table. ``boot_id`` changes with every
    start of nginx; "" means that no nginx process exists: then it is the table that nginx would start from. ``busy``: draining addresses
    that still have requests or WebSockets in flight. ``quarantined``: app → why its routes and options are frozen at the last good ones
    (the first hundred, shortly). ``not_applied``: apps whose *addresses* could not be applied; their rollout pauses.
    """

    router: str
    applied_revision: int
    boot_id: str
    applied_at: float
    busy: tuple[str, ...] = ()
    quarantined: Mapping[str, str] = field(default_factory=dict)
    not_applied: tuple[str, ...] = ()
