"""nginx's control socket: put a table, ask what is in force. The socket is served by nginx's own Lua."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from lain_shared.errors import Conflict, Refused, Unavailable
from lain_shared.model.traffic import ProcTraffic

T = TypeVar("T")

ABSENT = {errno.ENOENT, errno.ECONNREFUSED}
"""What ``connect`` answers when no process listens on a unix socket."""
LOCK = "running"
"""Beside the socket: locked by the supervisor before it starts an nginx, until the last process of that nginx has ended."""


class NginxSilent(Unavailable):
    """nginx is there but does not answer: what it serves from is unknown."""

    code = "nginx_silent"


class TrafficUnknown(Unavailable):
    """This nginx is of a release that does not count its traffic."""

    code = "traffic_unknown"


class TableRefused(Refused):
    """nginx cannot read the table; it serves from the one before."""

    code = "table_refused"


class TableOvertaken(Conflict):
    """nginx serves from another table than the one that was to be replaced; nothing was changed."""

    code = "table_overtaken"


@dataclass(frozen=True, slots=True)
class NginxState:
    """What nginx says of itself. ``version`` and ``revision`` are those of the oldest table any of its workers still serves from."""

    boot_id: str
    version: str | None = None
    revision: int | None = None
    published: str | None = None
    """The table last put; the workers are still taking it over while ``version`` differs."""
    workers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    inflight: Mapping[str, int] = field(default_factory=dict)
    """Address → requests in flight, WebSockets included. Addresses without any are left out."""
    ejected: Mapping[str, float] = field(default_factory=dict)
    """``address:port`` of backends that refused connections lately → when they are tried again (epoch seconds)."""


@dataclass(frozen=True, slots=True)
class NginxTraffic:
    """What became of requests since nginx's boot, all workers together. Counts only grow."""

    boot_id: str
    now: float
    """nginx's clock, epoch seconds."""
    uncounted: int = 0
    """Requests for which there was no room to count."""
    procs: Mapping[str, ProcTraffic] = field(default_factory=dict)
    """``app/proc`` → its counts; only procs that had a request since the time that was asked for."""


class Nginx:
    """The nginx behind one control socket."""

    def __init__(self, session: aiohttp.ClientSession, socket: Path) -> None:
        self._session = session
        self.socket = socket
        self.lock = socket.with_name(LOCK)

    @classmethod
    @asynccontextmanager
    async def connect(cls, socket: Path, *, timeout_seconds: float = 3.0) -> AsyncIterator[Nginx]:
        """Connecting is lazy: an nginx that is not there shows in the first call."""
        connector = aiohttp.UnixConnector(
            path=str(socket), force_close=True
        )  # a kept connection would outlive nginx's worker
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield cls(session, socket)

    async def state(self) -> NginxState | None:
        """What is in force; None when no nginx process exists. Raises ``NginxSilent`` when one does not answer."""
        return await self._call("GET", "/state", b"", NginxState)

    async def put_table(self, text: bytes, *, replaces: str | None = None) -> NginxState | None:
        """Swap the table in; the state once every worker has it (or after a second). None when no nginx process exists.

        ``replaces``: the version it takes the place of ("": there is none; None: whichever). So a request that a stalled worker reads late
        cannot bring an older table back. Raises ``TableOvertaken`` when another one is in force, ``TableRefused`` when it cannot be read.
        """
        path = "/table" if replaces is None else f"/table?replaces={replaces}"
        return await self._call("PUT", path, text, NginxState)

    async def traffic(self, since: float | None = None) -> NginxTraffic | None:
        """The counts of procs that had a request since then (``now`` of an earlier answer; None: of all). None: no nginx process exists.

        Raises ``NginxSilent``, and ``TrafficUnknown`` when this nginx does not count.
        """
        return await self._call(
            "GET", "/traffic" if since is None else f"/traffic?since={since:.3f}", b"", NginxTraffic
        )

    async def _call(self, method: str, path: str, body: bytes, kind: type[T]) -> T | None:
        try:
            async with self._session.request(method, f"http://nginx{path}", data=body or None) as answer:
                text = await answer.read()
                if answer.status == 422:
                    raise TableRefused("nginx refused the table", why=text.decode(errors="replace")[:500])
                if answer.status == 409:
                    raise TableOvertaken("another table is in force", why=text.decode(errors="replace")[:500])
                if answer.status == 404 and kind is NginxTraffic:
                    raise TrafficUnknown("nginx does not count its traffic", next="upgrade the router's nginx")
                if answer.status != 200:
                    raise NginxSilent(
                        f"nginx answered {answer.status} on its control socket", why=text.decode(errors="replace")[:500]
                    )
                return msgspec.json.decode(text, type=kind)
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno in ABSENT:
                if self._exists():
                    raise NginxSilent(
                        "nginx starts or stops: its processes exist, its control socket does not"
                    ) from error
                return None
            raise NginxSilent("nginx's control socket cannot be reached", why=str(error)) from error
        except (TimeoutError, aiohttp.ClientError, OSError, msgspec.MsgspecError) as error:
            raise NginxSilent(
                "nginx does not answer on its control socket", why=str(error) or type(error).__name__
            ) from error

    def _exists(self) -> bool:
        """Some nginx process holds the lock: a master that has not made its socket yet, or workers that end their last requests.

        Raises ``NginxSilent`` when that cannot be told.
        """
        try:
            with self.lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the close
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise NginxSilent("it cannot be told whether nginx runs", why=f"{self.lock}: {error.strerror}") from error
        return False
