"""The router's admin API: what it routes by, what it had to keep out, and its membership."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from lain_shared.errors import Conflict, Unavailable
from lain_shared.http_server import Api, reply
from lain_shared.loop import Loop
from lain_shared.model.route import ProxyOptions, RouterState
from lain_shared.tokens import Access
from lain_watcher.adapters.certificates import CertificateView
from lain_watcher.membership import Membership
from lain_watcher.router import Router
from lain_watcher.table import Table, has_certificate

ROUTER: web.AppKey[Router] = web.AppKey("router", Router)
TABLES: web.AppKey[Loop] = web.AppKey("tables", Loop)
MEMBERSHIP: web.AppKey[Membership] = web.AppKey("membership", Membership)

api = Api("watcher", "0.1.0", "Keeps the table that one router's nginx serves from, and says what it has applied.")


@dataclass(frozen=True, slots=True)
class RouteView:
    """One route in the table."""

    host: str
    path: str
    app: str
    proc: str
    https_only: bool
    tls: bool
    """A certificate serves this host."""
    ready: int
    """Backends in rotation."""


@dataclass(frozen=True, slots=True)
class BackendView:
    """One address of a proc. ``state``: ready, suspect or draining."""

    address: str
    state: str
    inflight: int
    ejected: bool = False
    """It refused a connection lately."""


@dataclass(frozen=True, slots=True)
class ProcView:
    """One proc in the table."""

    app: str
    proc: str
    release: int
    options: ProxyOptions
    backends: tuple[BackendView, ...]


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """What was kept out of the table. ``apps``: app → why its routes or options are frozen at the last good ones."""

    apps: Mapping[str, str]
    not_applied: tuple[str, ...]
    """Apps whose addresses could not be applied."""
    held_hosts: tuple[str, ...]
    """Hosts that vanished at once and are kept for now."""
    all_ejected: tuple[str, ...]
    """Procs all of whose ready backends refused connections lately."""


@dataclass(frozen=True, slots=True)
class MembershipView:
    """Whether the cluster counts on this router, and what it last published."""

    registered: bool
    state: RouterState | None


def _table(request: web.Request) -> Table:
    table = request.app[ROUTER].table
    if table is None:
        raise Unavailable("this router has no table yet", why="etcd has not been read yet", retry_seconds=1.0)
    return table


@api.get("/api/v1/routes/", access=Access.READ, summary="Every route in the table", response=list[RouteView])
async def routes(request: web.Request) -> web.Response:
    table = _table(request)
    views = [
        RouteView(
            host=route.host,
            path=route.path,
            app=entry.app,
            proc=entry.proc,
            https_only=route.https_only,
            tls=has_certificate(table, route.host),
            ready=len(entry.ready),
        )
        for entry in table.procs.values()
        for route in entry.routes
    ]
    return reply(sorted(views, key=lambda view: (view.host, view.path)))


@api.get("/api/v1/endpoints/", access=Access.READ, summary="Every proc's addresses", response=list[ProcView])
async def endpoints(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    inflight = router.nginx.inflight if router.nginx else {}
    ejected = router.nginx.ejected if router.nginx else {}
    views = [
        ProcView(
            app=entry.app,
            proc=entry.proc,
            release=entry.release,
            options=entry.options,
            backends=tuple(
                BackendView(peer, state, inflight.get(peer.partition(":")[0], 0), peer in ejected)
                for state, peers in (("ready", entry.ready), ("suspect", entry.suspect), ("draining", entry.draining))
                for peer in peers
            ),
        )
        for entry in _table(request).procs.values()
    ]
    return reply(sorted(views, key=lambda view: (view.app, view.proc)))


@api.get("/api/v1/quarantined/", access=Access.READ, summary="What was kept out of the table", response=QuarantineView)
async def quarantined(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    verdict = router.verdict
    return reply(
        QuarantineView(
            apps=verdict.quarantined if verdict else {},
            not_applied=verdict.not_applied if verdict else (),
            held_hosts=verdict.guard.lost if verdict and verdict.guard else (),
            all_ejected=router.all_ejected(),
        )
    )


@api.get(
    "/api/v1/certificates/",
    access=Access.READ,
    summary="Certificates and their problems",
    response=list[CertificateView],
)
async def certificates(request: web.Request) -> web.Response:
    return reply(request.app[ROUTER].certificates.views)


@api.get("/api/v1/membership/", access=Access.READ, summary="What this router publishes", response=MembershipView)
async def membership(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    return reply(MembershipView(request.app[MEMBERSHIP].is_wanted, router.report if router.looked else None))


@api.delete(
    "/api/v1/membership/",
    access=Access.OPERATOR,
    summary="Unregister: the cluster no longer waits for this router",
    status=204,
)
async def unregister(request: web.Request) -> web.Response:
    await request.app[MEMBERSHIP].unregister()
    return web.Response(status=204)


@api.put("/api/v1/membership/", access=Access.OPERATOR, summary="Register again", status=204)
async def register(request: web.Request) -> web.Response:
    await request.app[MEMBERSHIP].register()
    return web.Response(status=204)


@api.post(
    "/api/v1/guard/accept/", access=Access.OPERATOR, summary="Accept a sudden loss of hosts", status=204, errors=(409,)
)
async def accept_loss(request: web.Request) -> web.Response:
    router = request.app[ROUTER]
    if router.verdict is None or router.verdict.guard is None:
        raise Conflict("nothing is being held", next="see what is: GET /api/v1/quarantined/")
    router.accept_loss = True
    request.app[TABLES].wake()
    return web.Response(status=204)
