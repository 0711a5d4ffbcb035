"""Logs and exec, relayed from the agent of the node a pod runs on, over mutual TLS. The console reads none of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from lain_shared.http_client import HttpClient
from lain_shared.model.pod import PodId


class Agents:
    """The agents' APIs. ``tls`` shows the console's certificate and verifies theirs."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls

    @asynccontextmanager
    async def _client(self, url: str) -> AsyncIterator[HttpClient]:
        async with HttpClient(url, tls=self._tls) as client:
            yield client

    async def logs(self, agent_url: str, pod: PodId, params: Mapping[str, Any]) -> AsyncGenerator[bytes, None]:
        """Lines of a pod's output. Raises the agent's refusal, or ``Unavailable`` when the node cannot be reached."""
        async with self._client(agent_url) as client:
            async for line in client.stream(f"{_pod(pod)}logs/", params=params, quiet=True):
                yield line

    @asynccontextmanager
    async def exec(
        self, agent_url: str, pod: PodId, command: Sequence[str], *, tty: bool
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket to a command inside a pod."""
        params = [("cmd", word) for word in command] + ([("tty", "true")] if tty else [])
        async with self._client(agent_url) as client, client.websocket(f"{_pod(pod)}exec/", params=params) as socket:
            yield socket


def _pod(pod: PodId) -> str:
    return f"/api/v1/pods/{quote(str(pod), safe='')}/"


async def relay(client: web.WebSocketResponse, agent: aiohttp.ClientWebSocketResponse) -> None:
    """Frames in both directions until either side ends; then the other is closed, with the same code."""

    async def pump(
        source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        sink: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    ) -> None:
        async for message in source:
            if message.type is aiohttp.WSMsgType.BINARY:
                await sink.send_bytes(message.data)
            elif message.type is aiohttp.WSMsgType.TEXT:
                await sink.send_str(message.data)

    pumps = [asyncio.create_task(pump(client, agent)), asyncio.create_task(pump(agent, client))]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        code = agent.close_code or aiohttp.WSCloseCode.OK
        await agent.close()
        await client.close(
            code=code if code != aiohttp.WSCloseCode.ABNORMAL_CLOSURE else aiohttp.WSCloseCode.GOING_AWAY
        )
