"""The server under every daemon's API: what is no HTTP is refused in our words, and without noise; idle callers are let go."""

from __future__ import annotations

import asyncio

import msgspec
import structlog
from aiohttp import web

from lain_shared.errors import LainError

log = structlog.get_logger()

MAX_LINE_BYTES = 64 * 1024
"""Of a request line, and of one header."""
KEEP_ALIVE_SECONDS = 75.0
"""How long a connection may be idle: as nginx has it."""
SHOWN = 200


class _Protocol(web.RequestHandler):
    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What the parser refuses, in the form of all our refusals. Anybody can send such bytes: that is no error of ours."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        log.debug("request_unreadable", error=(message or "")[:SHOWN])
        error = LainError(
            "this is no HTTP request that can be read", why=(message or "").partition("\n")[0][:SHOWN], code="bad_http"
        )
        response = web.Response(
            body=msgspec.json.encode(error.to_document()), status=status, content_type="application/json"
        )
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=asyncio.get_running_loop(), **self._kwargs)


class Runner(web.AppRunner):
    """``web.AppRunner`` with that server. ``grace_seconds``: what handlers in flight are given to end, once asked and once cancelled."""

    def __init__(self, app: web.Application, *, grace_seconds: float) -> None:
        super().__init__(
            app, access_log=None, shutdown_timeout=grace_seconds / 2, handler_cancellation=True,
            max_line_size=MAX_LINE_BYTES, max_field_size=MAX_LINE_BYTES, keepalive_timeout=KEEP_ALIVE_SECONDS,
        )  # fmt: skip

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        server.__class__ = _Server
        return server
