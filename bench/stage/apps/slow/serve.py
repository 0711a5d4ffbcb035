"""The app under load: answers after 50–500 ms (``/``) or at once (``/fast``), echoes on a WebSocket (``/ws``). Standard library only.

On SIGTERM it ends as a good server does: no new connection, requests in flight get their answer and ``Connection: close``, each WebSocket
a close frame (RFC 6455 §7.4.1, 1001: going away).
"""

import asyncio
import base64
import hashlib
import os
import random
import signal
import sys

VERSION = os.environ.get("LAIN_APP_RELEASE_VERSION", "?")
WHO = f"{os.environ.get('LAIN_APPNAME', '?')} {os.environ.get('LAIN_PROCNAME', 'web')}-{os.environ.get('LAIN_INSTANCE_NO', '?')} {VERSION}"
SLOW_SECONDS = (0.05, 0.5)
WEBSOCKET_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

stopping = asyncio.Event()
busy: set[asyncio.Task[None]] = set()
idle: set[asyncio.StreamWriter] = set()
sockets: set[asyncio.StreamWriter] = set()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    task = asyncio.current_task()
    assert task is not None
    try:
        while True:
            idle.add(writer)
            head = await reader.readuntil(b"\r\n\r\n")
            idle.discard(writer)
            busy.add(task)
            line, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in lines if one)}
            path = line.split(" ")[1]
            if "upgrade" in headers:
                busy.discard(task)
                await websocket(reader, writer, headers["sec-websocket-key"])
                return
            await reader.readexactly(int(headers.get("content-length", 0)))
            status = "200 OK"
            if path.startswith("/status/"):
                status = f"{int(path[8:11])} As Asked"
            elif not path.startswith(("/fast", "/healthz")):
                await asyncio.sleep(random.uniform(*SLOW_SECONDS))
            body = f"{WHO}\n".encode()
            close = "Connection: close\r\n" if stopping.is_set() else ""
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{close}\r\n".encode() + body)
            await writer.drain()
            busy.discard(task)
            if stopping.is_set():
                return
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        busy.discard(task)
        idle.discard(writer)
        writer.close()


async def websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_SALT, usedforsecurity=False).digest()).decode()
    writer.write(
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    sockets.add(writer)
    try:
        while True:
            first, second = await reader.readexactly(2)
            length = second & 0x7F
            assert second & 0x80
            assert length < 126, "short frames only"
            mask, data = await reader.readexactly(4), await reader.readexactly(length)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            code = first & 0x0F
            if code == 8:
                if not stopping.is_set():  # else it is the answer to ours
                    writer.write(bytes((0x88, length)) + data)
                    await writer.drain()
                return
            writer.write(bytes((0x8A if code == 9 else 0x80 | code, length)) + data)
            await writer.drain()
    finally:
        sockets.discard(writer)


async def main() -> None:
    server = await asyncio.start_server(serve, "0.0.0.0", int(os.environ.get("PORT", "8000")), backlog=1024)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    print("listening", flush=True)
    await stopping.wait()
    server.close()
    for writer in list(sockets):
        writer.write(b"\x88\x02" + (1001).to_bytes(2, "big"))
    for writer in list(idle):
        writer.close()
    if busy:
        await asyncio.wait(busy, timeout=5)
    for _ in range(
        300
    ):  # what a client sends before it has read our close frame would reset the connection if we closed it now
        if not sockets:
            break
        await asyncio.sleep(0.01)
    for writer in list(sockets):
        writer.close()
    sys.stdout.flush()


asyncio.run(main())
