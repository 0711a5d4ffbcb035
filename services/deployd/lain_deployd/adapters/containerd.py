"""What the Engine lost track of. An Engine that dies while it starts a container leaves it in containerd, made or even running, and knows
nothing of it afterwards: every start of that container fails ("already exists"), and removing it leaves the process behind.

containerd is asked for one container at a time, by the id the Engine gave it; nothing else there is touched. Five calls of its gRPC API
(containerd's ``api/services``), whose messages are a field or two: written by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lain_deployd.agent.engine import EngineUnavailable
from lain_shared.etcd_grpc import grpc

NAMESPACE = (("containerd-namespace", "moby"),)
"""Where Docker keeps its containers."""
CALL_SECONDS = 5.0
END_SECONDS = 10.0
CONTAINERS = "/containerd.services.containers.v1.Containers/"
TASKS = "/containerd.services.tasks.v1.Tasks/"
SIGKILL_ALL = b"\x18\x09\x20\x01"
"""KillRequest: signal (3) = 9, all (4) = true."""
OPTIONS = (("grpc.max_reconnect_backoff_ms", 1000), ("grpc.enable_http_proxy", 0))


def sockets_beside(docker: str) -> tuple[Path, ...]:
    """Where containerd listens when the Engine listens at ``docker``: one that dockerd started itself, or the machine's own."""
    run = Path(docker).parent
    return (run / "docker" / "containerd" / "containerd.sock", run / "containerd" / "containerd.sock")


class Containerd:
    """containerd behind the first of ``sockets`` that is there. None there: nothing is known to be left over."""

    def __init__(self, sockets: Sequence[Path]) -> None:
        self._sockets = sockets
        self._channel: Any = None
        self._path: Path | None = None

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def knows(self, container: str) -> bool:
        """Whether it has anything of that container. Raises ``EngineUnavailable`` when it is there and does not answer."""
        there = next((path for path in self._sockets if path.exists()), None)
        if there is None:
            return False
        if there != self._path or self._channel is None:
            await self.close()
            self._channel, self._path = grpc.aio.insecure_channel(f"unix:{there}", options=OPTIONS), there
        return bool(await self._call(CONTAINERS + "Get", _text(container)))

    async def forget(self, container: str) -> bool:
        """End and remove what it has of a container that it ``knows``, and that the Engine says does not run; True if a process ended.

        Raises ``EngineUnavailable`` when containerd does not answer, or cannot end it.
        """
        named = _text(container)
        ran = bool(await self._call(TASKS + "Kill", named + SIGKILL_ALL))
        try:
            async with asyncio.timeout(END_SECONDS):
                while await self._call(TASKS + "Delete", named) is None:  # noqa: ASYNC110 - not ended yet, and nothing tells when
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise EngineUnavailable(f"what is left of container {container} does not end") from error
        await self._call(CONTAINERS + "Delete", named)
        return ran

    async def _call(self, method: str, body: bytes) -> bool | None:
        """True: done. False: there is none such. None: not possible as it is now."""
        try:
            await self._channel.unary_unary(method)(body, metadata=NAMESPACE, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.NOT_FOUND:
                    return False
                case grpc.StatusCode.FAILED_PRECONDITION:
                    return None
                case grpc.StatusCode.UNKNOWN if "running process" in (error.details() or ""):
                    return None  # the kill is under way: the shim has no better code for it
            raise EngineUnavailable(
                "containerd does not answer", why=f"{error.code().name} {error.details()}", retry_seconds=1.0
            ) from error
        return True


def _text(value: str) -> bytes:
    """Field 1 of a message, a text of less than 128 bytes."""
    encoded = value.encode()
    return bytes((0x0A, len(encoded))) + encoded
