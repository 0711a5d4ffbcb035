"""The HTTP kit of every daemon: routes that must say who may call them, one error shape, OpenAPI made from the same declarations.

A handler authorizes (declared), parses, calls one use case, replies. Statuses are named here only.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiohttp import web
from marshmallow import Schema, ValidationError
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from lain_shared.errors import Conflict, Denied, Invalid, LainError, NotFound, Refused, Unauthenticated, Unavailable
from lain_shared.tokens import Access, Principal, Verifier

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
_ENDPOINT_OF: web.AppKey[Mapping[Any, Endpoint]] = web.AppKey("endpoint_of", Mapping)

STATUS: tuple[tuple[type[LainError], int], ...] = (
    (Invalid, 400),
    (Unauthenticated, 401),
    (Denied, 403),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 422),
    (Unavailable, 503),
)
MAX_BODY_BYTES = 1024 * 1024
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def status_of(error: LainError) -> int:
    """The HTTP status of an error's kind; 500 for a kind that blames nobody else."""
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One declared route: what the documentation shows and the middlewares enforce."""

    method: str
    path: str
    access: Access
    summary: str
    handler: Handler
    request: type[Schema] | None = None
    query: type[Schema] | None = None
    response: Any = None
    """A dataclass or a type msgspec can describe; None: not JSON."""
    status: int = 200
    tags: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    also: tuple[int, ...] = ()
    """Other statuses that are no refusals, with the same body."""
    media: tuple[str, ...] = ()
    """The types of a body that is not JSON."""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Parameter of the path → what it may be (JSON Schema), for the documentation; the handler judges."""
    daemons: tuple[str, ...] = ()
    """With ``Access.DAEMON``: whose certificates pass; empty: every daemon's."""


@dataclass(frozen=True, slots=True)
class Probes:
    """What ``/readyz`` and ``/healthz`` ask: name → why not (empty: good)."""

    ready: Callable[[], Mapping[str, str]] = field(default=lambda: {})
    live: Callable[[], Mapping[str, str]] = field(default=lambda: {})


class Api:
    """The routes of one daemon. Every one declares its ``access``; there is no default."""

    def __init__(
        self,
        service: str,
        version: str,
        description: str = "",
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.service, self.version, self.description = service, version, description
        self.parameters = parameters or {}
        """What parameters of its paths may be (JSON Schema)."""
        self.endpoints: list[Endpoint] = []

    def route(
        self, method: str, path: str, *, access: Access, summary: str, **more: Any
    ) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            self.endpoints.append(Endpoint(method, path, access, summary, handler, parameters=self.parameters, **more))
            return handler

        return declare

    def get(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self.route("GET", path, **more)

    def post(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self.route("POST", path, **more)

    def put(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self.route("PUT", path, **more)

    def patch(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self.route("PATCH", path, **more)

    def delete(self, path: str, **more: Any) -> Callable[[Handler], Handler]:
        return self.route("DELETE", path, **more)

    def include(self, *others: Api) -> None:
        """Take over the routes declared in other modules."""
        for other in others:
            self.endpoints.extend(other.endpoints)

    def build(
        self,
        *,
        verifier: Verifier,
        probes: Probes | None = None,
        metrics: CollectorRegistry | None = None,
        context: Mapping[web.AppKey[Any], Any] | None = None,
    ) -> web.Application:
        """The application: these routes, and ``/healthz /readyz /metrics /version /openapi.json /docs`` that every daemon has."""
        metrics = metrics or CollectorRegistry()
        ProcessCollector(registry=metrics)
        app = web.Application(
            middlewares=[_outermost(_RequestMetrics(self.service, metrics)), _authorize(verifier)],
            client_max_size=MAX_BODY_BYTES,
        )
        for key, value in (context or {}).items():
            app[key] = value
        common = _Common(self.service, self.version, probes or Probes(), metrics)
        every = (*self.endpoints, *common.endpoints())
        common.describe(self.description, every)
        endpoints: dict[Any, Endpoint] = {}
        for endpoint in every:
            resource = app.router.add_route(endpoint.method, endpoint.path, endpoint.handler)
            endpoints[resource] = endpoint
        app[_ENDPOINT_OF] = endpoints
        return app


# --- what handlers use ------------------------------------------------------------------------------------------------


def principal(request: web.Request) -> Principal:
    """Who calls."""
    return request[PRINCIPAL]


async def parse(request: web.Request, schema: type[Schema]) -> Any:
    """The request's JSON body as ``schema`` loads it. ``Invalid`` lists every fault with its path; an empty body is ``{}``."""
    raw = await request.read()
    try:
        document = msgspec.json.decode(raw) if raw else {}
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid("the body is not JSON", why=str(error)) from error
    if not isinstance(document, dict):
        raise Invalid("the body must be a JSON object", evidence={"found": type(document).__name__})
    return _load(schema, document, "body")


def query(request: web.Request, schema: type[Schema]) -> Any:
    """The query string as ``schema`` loads it."""
    return _load(schema, dict(request.query), "query")


def _load(schema: type[Schema], document: Mapping[str, Any], where: str) -> Any:
    try:
        return schema().load(document)
    except ValidationError as error:
        faults = tuple(_flatten(error.messages if isinstance(error.messages, dict) else {"_schema": error.messages}))
        raise Invalid(
            f"the {where} is wrong: " + "; ".join(f"{path}: {text}" for path, text in faults),
            evidence={"faults": [{"path": path, "message": text} for path, text in faults]},
            code="invalid_request",
        ) from error


def _flatten(messages: Mapping[Any, Any], path: str = "") -> Sequence[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in messages.items():
        here = path if name in ("value", "_schema") and path else f"{path}.{name}" if path else str(name)
        if isinstance(value, Mapping):
            found.extend(_flatten(value, here))
        else:
            found.extend((here, str(text)) for text in (value if isinstance(value, list) else [value]))
    return found


def reply(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` (dataclasses, mappings, sequences) as JSON."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json", headers=headers
    )


def require_websocket(request: web.Request) -> None:
    """Raises ``Invalid`` unless the client wants one: nothing is started for who could not see it end."""
    if not web.WebSocketResponse().can_prepare(request):
        raise Invalid(
            "this is a WebSocket", next="send Upgrade: websocket (RFC 6455), or: lain exec", code="websocket_needed"
        )


def no_content() -> web.Response:
    return web.Response(status=204)


class EventStream:
    """Server-sent events (WHATWG HTML, 9.2) to one client. The handler returns ``response``."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        self._lock = asyncio.Lock()

    async def send(self, event: str, data: object) -> None:
        await self._write(b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(data)))

    async def heartbeat(self) -> None:
        await self._write(b": alive\n\n")

    async def _write(self, text: bytes) -> None:
        async with self._lock:
            await self.response.write(text)


@asynccontextmanager
async def sse(request: web.Request, *, heartbeat_seconds: float = 5.0) -> AsyncIterator[EventStream]:
    """Answer with an event stream; a comment every ``heartbeat_seconds`` tells the client that we live.

    The handler must return ``stream.response``: any other response would be written after it.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = web.StreamResponse(headers=headers)
    response.content_type = "text/event-stream"
    await response.prepare(request)
    stream = EventStream(response)

    async def beat() -> None:
        while True:
            await asyncio.sleep(heartbeat_seconds)
            await stream.heartbeat()

    beating = asyncio.create_task(beat(), name="sse-heartbeat")
    try:
        yield stream
    except ConnectionResetError:
        log.debug("event_stream_left", path=request.path)
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    with suppress(ConnectionResetError):
        await response.write_eof()


# --- middlewares ------------------------------------------------------------------------------------------------------


class _RequestMetrics:
    def __init__(self, service: str, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "lain_http_requests_total", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.seconds = Histogram("lain_http_request_seconds", "Time to answer.", ["route"], registry=registry)
        self.service = service


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "(none)"


def _outermost(metrics: _RequestMetrics) -> Any:
    """Request id, access log, metrics, and the one place where an error becomes a status and a body."""

    @web.middleware
    async def outermost(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _REQUEST_ID.match(given) else uuid.uuid4().hex
        request[REQUEST_ID] = request_id
        began = time.monotonic()
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            response = await _answer(request, handler)
            elapsed = time.monotonic() - began
            route = _route_of(request)
            metrics.requests.labels(request.method, route, str(response.status)).inc()
            metrics.seconds.labels(route).observe(elapsed)
            if not response.prepared:
                response.headers.setdefault("X-Request-Id", request_id)
                response.headers.setdefault("X-Content-Type-Options", "nosniff")
            if request.method != "GET" or response.status >= 500:
                who = request.get(PRINCIPAL)
                log.info(
                    "request_answered", method=request.method, path=request.path, status=response.status,
                    seconds=round(elapsed, 4), who=who.name if who else None,
                )  # fmt: skip
        return response

    return outermost


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except LainError as error:
        return _refusal(error)
    except web.HTTPException as error:
        return _foreign_refusal(request, error)
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception as error:
        log.error("request_crashed", method=request.method, path=request.path, exc_info=error)
        unexpected = LainError(
            "something went wrong inside this daemon",
            next=f"look for request {request[REQUEST_ID]} in its log",
            evidence={"request_id": request[REQUEST_ID]},
        )
        return _refusal(unexpected)


def _refusal(error: LainError) -> web.Response:
    headers: dict[str, str] = {}
    if error.retry_seconds is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_seconds)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="lain"'
    return reply(error.to_document(), status=status_of(error), headers=headers)


def _foreign_refusal(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    known = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    body = LainError(
        f"{request.method} {request.path}: {error.reason}", code=known.get(error.status, "http_error")
    ).to_document()
    headers = {name: value for name, value in error.headers.items() if name in ("Allow", "Location")}
    return reply(body, status=error.status, headers=headers)


def _authorize(verifier: Verifier) -> Any:
    @web.middleware
    async def authorize(request: web.Request, handler: Handler) -> web.StreamResponse:
        endpoint = request.app[_ENDPOINT_OF].get(request.match_info.route)
        if endpoint is None:  # no such route: say so only to those we know
            identify(request, verifier)
            return await handler(request)
        if endpoint.access is not Access.PUBLIC:
            caller = identify(request, verifier)
            request[PRINCIPAL] = caller
            app = request.match_info.get("app")
            named = caller.kind != "daemon" or not endpoint.daemons or caller.name in endpoint.daemons
            if not named or not caller.may(endpoint.access, app):
                raise Denied(
                    f"{caller.name} may not {request.method} {request.path}",
                    why=f"it takes {endpoint.access.value} rights" + (f" on {app}" if app else ""),
                    next="ask an operator for a token with that right: lainctl token create",
                )
        return await handler(request)

    return authorize


def identify(request: web.Request, verifier: Verifier) -> Principal:
    """Who calls: the bearer token if one is shown, else the client certificate. ``Unauthenticated`` when neither holds."""
    header = request.headers.get("Authorization", "")
    scheme, _, text = header.partition(" ")
    if header and scheme.lower() != "bearer":
        raise Unauthenticated("only bearer tokens are accepted", next="send Authorization: Bearer <token>")
    if text:
        return verifier.verify(text.strip())
    if (common_name := _peer_name(request)) is not None:
        return Principal(common_name, None, kind="daemon")
    raise Unauthenticated(
        "a token or a daemon's certificate is needed", next="send Authorization: Bearer <token>, or: lain login"
    )


def _peer_name(request: web.Request) -> str | None:
    tls = request.transport.get_extra_info("ssl_object") if request.transport else None
    certificate: Mapping[str, Any] = (tls.getpeercert() if isinstance(tls, ssl.SSLObject) else None) or {}
    subject: Sequence[Sequence[tuple[str, str]]] = certificate.get("subject", ())
    return next((value for name in subject for attribute, value in name if attribute == "commonName"), None)


# --- what every daemon serves -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DaemonHealth:
    """How a daemon is. ``reasons``: part → why it is not well."""

    status: str
    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class DaemonVersion:
    service: str
    version: str


class _Common:
    def __init__(self, service: str, version: str, probes: Probes, metrics: CollectorRegistry) -> None:
        self.service, self.version, self.probes, self.metrics = service, version, probes, metrics
        self._description, self._every = "", tuple[Endpoint, ...]()
        self._shown: tuple[bytes, bytes] | None = None

    def describe(self, description: str, every: tuple[Endpoint, ...]) -> None:
        """What ``/openapi.json`` and ``/docs`` are to show."""
        self._description, self._every = description, every

    @property
    def shown(self) -> tuple[bytes, bytes]:
        """The document and the page, made when first asked for: what makes them is memory that a daemon otherwise has no use for."""
        if self._shown is None:
            from lain_shared import openapi  # noqa: PLC0415

            document = openapi.document(self.service, self.version, self._description, self._every)
            self._shown = msgspec.json.encode(document), openapi.page(document).encode()
        return self._shown

    def endpoints(self) -> tuple[Endpoint, ...]:
        def public(path: str, summary: str, handler: Handler, **more: Any) -> Endpoint:
            return Endpoint("GET", path, Access.PUBLIC, summary, handler, tags=("every daemon",), **more)

        return (
            public("/healthz", "Alive?", self.healthz, response=DaemonHealth, also=(503,)),
            public("/readyz", "Ready, or why not", self.readyz, response=DaemonHealth, also=(503,)),
            public(
                "/metrics",
                "Prometheus metrics",
                self.render_metrics,
                media=("text/plain", "application/openmetrics-text"),
            ),
            public("/version", "Version", self.tell_version, response=DaemonVersion),
            public("/openapi.json", "This document", self.openapi, media=("application/json",)),
            public("/docs", "This document, for people", self.docs, media=("text/html",)),
        )

    async def healthz(self, _request: web.Request) -> web.Response:
        return self._verdict(self.probes.live(), "alive", "stuck")

    async def readyz(self, _request: web.Request) -> web.Response:
        return self._verdict(self.probes.ready(), "ready", "not ready")

    def _verdict(self, reasons: Mapping[str, str], good: str, bad: str) -> web.Response:
        failing = {name: why for name, why in reasons.items() if why}
        return reply(DaemonHealth(bad if failing else good, failing), status=503 if failing else 200)

    async def render_metrics(self, request: web.Request) -> web.Response:
        """The text format every tool reads, or OpenMetrics for who asks for it (Prometheus does)."""
        wants_open = "application/openmetrics-text" in request.headers.get("Accept", "")
        render = openmetrics.generate_latest if wants_open else generate_latest
        kind = openmetrics.CONTENT_TYPE_LATEST if wants_open else CONTENT_TYPE_PLAIN_0_0_4
        body = await asyncio.to_thread(render, self.metrics)  # tens of milliseconds for thousands of lines
        return web.Response(body=body, headers={"Content-Type": kind})

    async def tell_version(self, _request: web.Request) -> web.Response:
        return reply(DaemonVersion(self.service, self.version))

    async def openapi(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.shown[0], content_type="application/json")

    async def docs(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.shown[1], content_type="text/html", charset="utf-8")
