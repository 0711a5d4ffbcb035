"""What the Docker Engine goes on sending while somebody listens: a container's output, its events, a command run inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from aiodocker import Docker

from lain_deployd.adapters import docker_json
from lain_deployd.adapters.docker_errors import translated
from lain_deployd.agent.engine import EngineEvent, LogChunk


async def read_chunks(content: aiohttp.StreamReader) -> AsyncIterator[LogChunk]:
    """Docker's frames: stream, three zeros, length (big-endian), data."""
    with translated("the output cannot be read"):
        while True:
            try:
                header = await content.readexactly(8)
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    raise
                return
            data = await content.readexactly(int.from_bytes(header[4:], "big"))
            yield LogChunk(header[0], data)


async def read_events(content: aiohttp.StreamReader) -> AsyncIterator[EngineEvent]:
    with translated("events cannot be followed"):
        async for line in content:
            if (event := docker_json.event(msgspec.json.decode(line))) is not None:
                yield event


class ExecSession:
    """A command over Docker's hijacked connection."""

    def __init__(self, client: Docker, exec_id: str, terminal: bool) -> None:
        self.id = exec_id
        self._exec = client.containers.exec(exec_id)
        self._exec._tty = terminal
        self._client = client
        self._stream = self._exec.start(detach=False)

    async def open(self) -> None:
        await self._stream._init()

    async def read(self) -> LogChunk | None:
        with translated("the command's output cannot be read"):
            message = await self._stream.read_out()
        return None if message is None else LogChunk(message.stream, message.data)

    async def write(self, data: bytes) -> None:
        with translated("the command takes no input"):
            await self._stream.write_in(data)

    async def close_input(self) -> None:
        response = self._stream._resp
        transport = response.connection.transport if response is not None and response.connection is not None else None
        if transport is not None and transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    async def resize(self, columns: int, rows: int) -> None:
        with translated("the terminal cannot be resized"):
            await self._exec.resize(h=rows, w=columns)

    async def exit_code(self) -> int | None:
        with translated("the command's end cannot be seen"):
            state = await self._exec.inspect()
        return None if state.get("Running") else state.get("ExitCode")

    async def close(self) -> None:
        response = self._stream._resp
        if response is not None:
            self._stream._closed = True
            response.close()
