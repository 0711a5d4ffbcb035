"""Asking somebody who may not answer: how far the attempt came is told apart, and an answer tells the time and the certificate."""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lain_shared import contact
from lain_shared.contact import Question, Reached, apart, ask
from lain_shared.tls import client_context, server_context
from tests.fixtures.certificates import Authority

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    serving = await asyncio.start_server(once, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{serving.sockets[0].getsockname()[1]}"
    finally:
        serving.close()


def answering(*, date: float, status: int = 200) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        told = email.utils.formatdate(date, usegmt=True)
        writer.write(f"HTTP/1.1 {status} So\r\nDate: {told}\r\nConnection: close\r\n\r\nwhy not".encode())
        await writer.drain()

    return talk


async def test_an_answer_tells_time_and_certificate(tmp_path: Path) -> None:
    folder = Authority(tmp_path).issue("someone")
    async with server(answering(date=time.time() - 90, status=503), server_context(folder)) as address:
        told = await ask(Question("it", address, "/x"), client_context(folder), body=True)
    assert (told.reached, told.status, told.body, told.error) == (Reached.ANSWERED, 503, b"why not", "")
    assert told.certificate is not None and told.certificate.not_before < time.time() < told.certificate.not_after
    assert told.reading is not None
    low, high, votes = apart([told.reading])
    assert low - 0.1 <= 90 <= high + 0.1 and high - low < 3 and votes == 1


async def test_how_far_it_came_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact, "ANSWER_SECONDS", 0.2)
    ours, theirs = Authority(tmp_path / "a").issue("ours"), Authority(tmp_path / "b").issue("theirs")

    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def babbling(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        await writer.drain()

    async def nobody(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None: ...

    async with server(nobody) as address:  # as a proxy in front of a port that nothing listens on
        assert (await ask(Question("it", address, "/"), None)).reached is Reached.REFUSED
        assert (await ask(Question("it", address, "/"), client_context(ours))).reached is Reached.REFUSED
    async with server(silent) as address:
        assert (await ask(Question("it", address, "/"), None)).reached is Reached.SILENT
        assert (await ask(Question("it", address, "/"), client_context(ours))).reached is Reached.SILENT
    refused = await ask(Question("it", address, "/"), None)
    assert refused.reached is Reached.REFUSED and "nothing listens" in refused.error
    async with server(babbling) as address:
        assert (await ask(Question("it", address, "/"), None)).reached is Reached.GARBLED
    async with server(answering(date=time.time()), server_context(theirs)) as address:
        told = await ask(Question("it", address, "/"), client_context(ours))
        assert told.reached is Reached.CERTIFICATE and "certificate" in told.error
    assert (await ask(Question("it", "nowhere.invalid:80", "/"), None)).reached is Reached.UNREACHABLE
    assert (await ask(Question("it", "no port", "/"), None)).reached is Reached.UNREACHABLE
