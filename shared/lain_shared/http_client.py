"""Calling a LAIN API: JSON in and out, the error body back as the ``LainError`` kind it was, never a foreign exception."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from lain_shared.errors import (
    Conflict,
    Denied,
    Invalid,
    LainError,
    NotFound,
    Refused,
    Unauthenticated,
    Unavailable,
    Uncertain,
)

T = TypeVar("T")

KIND_OF: Mapping[int, type[LainError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Denied,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    413: Invalid,
    422: Refused,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class Unreachable(Unavailable):
    """No answer came: nothing listens there, the name is unknown, the certificate is not trusted, or it took too long."""

    code = "unreachable"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    event: str
    data: Any


class HttpClient:
    """One API. ``token``: sent as bearer. ``tls``: how to verify (and show a certificate to) an ``https`` URL.

    ``timeout_seconds`` bounds a whole call; streams are bounded by silence instead (``silence_seconds``: nothing, not even a heartbeat).
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = 30.0,
        silence_seconds: float = 20.0,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=5.0)
        self._stream_timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=silence_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, **more: Any) -> Any:
        return await self.call("GET", path, **more)

    async def post(self, path: str, **more: Any) -> Any:
        return await self.call("POST", path, **more)

    async def put(self, path: str, **more: Any) -> Any:
        return await self.call("PUT", path, **more)

    async def patch(self, path: str, **more: Any) -> Any:
        return await self.call("PATCH", path, **more)

    async def delete(self, path: str, **more: Any) -> Any:
        return await self.call("DELETE", path, **more)

    async def call(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, Any] | None = None, kind: Any = Any
    ) -> Any:
        """The decoded answer, as ``kind`` (a dataclass, or anything msgspec decodes); None when there is no body."""
        data = None if json is None else msgspec.json.encode(json)
        headers = {} if data is None else {"Content-Type": "application/json"}
        async with self._open(method, path, params=params, data=data, headers=headers, timeout=self._timeout) as answer:
            body = await answer.read()
            if not body:
                return None
            try:
                return msgspec.json.decode(body, type=kind)
            except msgspec.MsgspecError as error:
                raise Unavailable(
                    f"{self.base_url}{path} answered something this client cannot read", why=str(error), code="bad_answer",
                    next="are client and server of the same release? lain version",
                ) from error  # fmt: skip

    async def events(self, path: str, *, params: Mapping[str, Any] | None = None) -> AsyncIterator[Event]:
        """Server-sent events until the server ends the stream. Heartbeats are swallowed."""
        name, data = "message", b""
        async for line in self.stream(path, params=params, headers={"Accept": "text/event-stream"}):
            if not line:
                if data:
                    yield Event(name, msgspec.json.decode(data))
                name, data = "message", b""
            elif line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                data += line[5:].strip()

    async def stream(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        quiet: bool = False,
    ) -> AsyncIterator[bytes]:
        """Lines (without their end) as they come. ``quiet``: silence is normal (a log that says nothing)."""
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0) if quiet else self._stream_timeout
        async with self._open("GET", path, params=params, headers=headers or {}, timeout=timeout) as answer:
            pending = b""
            try:
                async for chunk in answer.content.iter_any():
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        yield line.removesuffix(b"\r")
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unreachable(f"{self.base_url}{path} broke off", why=_why(error), retry_seconds=1.0) from error
            if pending:
                yield pending

    @asynccontextmanager
    async def websocket(self, path: str, *, params: Any = None) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A WebSocket to ``path``; a refusal comes as the error it carries."""
        session = self._open_session()
        try:
            socket = await session.ws_connect(f"{self.base_url}{path}", params=params, heartbeat=10.0)
        except aiohttp.WSServerHandshakeError as error:
            kind = KIND_OF.get(error.status, LainError)
            raise kind(f"{self.base_url}{path} refused: {error.status} {error.message}") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(path, error) from error
        async with socket:
            yield socket

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("HttpClient is used outside its context")
        return self._session

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str],
        data: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._open_session()
        clean = {name: _parameter(value) for name, value in (params or {}).items() if value is not None}
        try:
            answer = await session.request(
                method, f"{self.base_url}{path}", params=clean, data=data, headers=headers, timeout=timeout
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(path, error, wrote=method != "GET") from error
        try:
            if answer.status >= 400:
                raise await self._refusal(answer, path)
            yield answer
        except (TimeoutError, aiohttp.ClientError) as error:
            raise self._unreachable(path, error, wrote=method != "GET") from error
        finally:
            answer.release() if answer.content.at_eof() else answer.close()

    async def _refusal(self, answer: aiohttp.ClientResponse, path: str) -> LainError:
        kind = KIND_OF.get(answer.status, LainError)
        try:
            body = msgspec.json.decode(await answer.read())["error"]
            return kind(
                body["message"], why=body["why"], next=body["next"], evidence=body["evidence"], code=body["code"],
                retry_seconds=body["retry_seconds"],
            )  # fmt: skip
        except (msgspec.MsgspecError, KeyError, TypeError):
            return kind(f"{self.base_url}{path} answered {answer.status} {answer.reason}", code=f"http_{answer.status}")

    def _unreachable(self, path: str, error: BaseException, *, wrote: bool = False) -> Unavailable:
        never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
        kind = Uncertain if wrote and not never_sent else Unreachable
        message = (
            f"{self.base_url} cannot be reached"
            if kind is Unreachable
            else f"{self.base_url}{path} did not answer in time"
        )
        return kind(
            message,
            why=_why(error),
            next="is it running, and is the address right? lain config show",
            retry_seconds=1.0,
        )


def _parameter(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
