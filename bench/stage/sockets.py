"""WebSockets held open through the router, each saying something every second; how and when each ends is written down.

A thread with an event loop of its own: fifty of them cost next to nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp

ECHO_SECONDS = 10.0
OPEN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class End:
    """How a socket ended. ``code``: of its close frame (RFC 6455 §7.4), None without one."""

    number: int
    at: float
    code: int | None
    why: str


@dataclass(slots=True)
class Sockets:
    """The sockets that are held. ``ended``: those that ended though nobody here closed them."""

    count: int
    echoes: int = 0
    ended: list[End] = field(default_factory=list)
    _opened: int = 0
    _closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextlib.contextmanager
    def held(
        cls, port: int, host: str, count: int, *, path: str = "/ws", address: str = "127.0.0.1"
    ) -> Iterator[Sockets]:
        """``count`` sockets to ``host``, open when the block begins, closed when it ends."""
        held = cls(count)
        thread = threading.Thread(
            target=lambda: asyncio.run(held._hold(f"ws://{address}:{port}{path}", host)), daemon=True
        )
        thread.start()
        try:
            deadline = time.monotonic() + OPEN_SECONDS
            while held._opened < count and not held.ended:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{held._opened} of {count} WebSockets to {host} opened")
                time.sleep(0.05)
            yield held
        finally:
            held._closing.set()
            thread.join(ECHO_SECONDS + 5)

    async def _hold(self, url: str, host: str) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._one(session, url, host, number) for number in range(self.count)))

    async def _one(self, session: aiohttp.ClientSession, url: str, host: str, number: int) -> None:
        code, why = None, ""
        try:
            async with session.ws_connect(url, headers={"Host": host}) as socket:
                self._opened += 1
                while not self._closing.is_set():
                    await socket.send_str(f"{number}")
                    message = await socket.receive(ECHO_SECONDS)
                    if message.type is not aiohttp.WSMsgType.TEXT:
                        code, why = socket.close_code, message.type.name
                        break
                    self.echoes += 1
                    message = await self._rest(socket)
                    if message is not None:
                        code, why = socket.close_code, message.type.name
                        break
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            why = repr(error)
        if not self._closing.is_set():
            if code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE:
                code = None
            self.ended.append(End(number, time.time(), code, why))

    async def _rest(self, socket: aiohttp.ClientWebSocketResponse) -> aiohttp.WSMessage | None:
        """A second of silence, or what came in it."""
        with contextlib.suppress(TimeoutError):
            return await socket.receive(1.0)
        return None
