"""Sibling nodes for peers: our own node's image with a stock Engine in it (no live-restore, which Swarm mode refuses), alone on a network.

Whoever is not measured is frozen (``docker pause``): no process of it gets a cycle, so that nobody's idle work, timers or caches cost the
other. That holds for our node while a peer works too; a node that was thawed is given time to find its feet before it is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import secrets
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from bench.report import ROOT
from lain_cli.local import images
from lain_cli.local.cluster import CAPABILITIES
from lain_cli.local.docker import Docker
from lain_cli.local.engine import SOCKET

ENGINE_SECONDS = 60.0
CALL_SECONDS = 300.0
ONE_SHOT: dict[str, Any] = {"one-shot": True}
INNER_SOCKET = "run/docker.sock"
DAEMON_JSON = ROOT / "deploy/images/node/rootfs/etc/docker/daemon.json"


class EngineRefused(Exception):
    """An Engine answered that it will not; the text is its own."""


@dataclass(slots=True)
class EngineApi:
    """An Engine's API over its unix socket, as bare as can be: what is asked, what is answered."""

    socket: str
    _session: aiohttp.ClientSession | None = None

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Any:
        """JSON in, JSON out (None: no content). Booleans and maps among ``params`` are written as the Engine reads them."""
        shown = {
            name: json.dumps(value) if isinstance(value, bool | dict) else str(value) for name, value in params.items()
        }
        data = body if isinstance(body, bytes) else None
        document = None if data is not None else body
        async with self._open().request(
            method, f"http://engine/v1.41/{path}", params=shown, json=document, data=data, headers=headers
        ) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise EngineRefused(f"{method} {path}: {answer.status} {text.strip()[:300]}")
            try:
                return json.loads(text) if text.strip() else None
            except ValueError:
                return text  # a stream of documents: progress of a load or a pull

    async def listed(self, label: str, *, running: bool) -> list[dict[str, Any]]:
        """The containers with that label (``name=value``), as ``docker ps`` (``running``) or ``docker ps -a`` lists them."""
        found: list[dict[str, Any]] = await self.call(
            "GET", "containers/json", all=not running, filters={"label": [label]}
        )
        return found

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(self.socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


@dataclass(slots=True)
class NodeContainer:
    """A node, ours or a peer's, as the machine sees it: a container to freeze and thaw, with an Engine to ask inside."""

    container: str
    frozen: bool = False
    docker: Docker = field(default_factory=Docker)

    @property
    def socket(self) -> str:
        """Its Engine's socket, through the container's first process: no command, no port, no copy in between."""
        pid = self.docker.run("inspect", "--format", "{{.State.Pid}}", self.container)
        return f"/proc/{pid}/root/{INNER_SOCKET}"

    def freeze(self) -> None:
        if not self.frozen:
            self.docker.run("pause", self.container)
            self.frozen = True

    def thaw(self) -> None:
        if self.frozen:
            self.docker.run("unpause", self.container)
            self.frozen = False

    async def cpu_seconds(self) -> float:
        """What it and all within used of the processors since it was made."""
        outer = EngineApi(str(SOCKET))
        try:
            stats = await outer.call("GET", f"containers/{self.container}/stats", stream=False, **ONE_SHOT)
        finally:
            await outer.close()
        return float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


@contextlib.contextmanager
def peer_node(name: str) -> Iterator[NodeContainer]:
    """A node of its own on a network without a way out; gone when the block ends."""
    docker = Docker()
    unique = f"lain-peer-{name}-{secrets.token_hex(3)}"
    docker.run("network", "create", "--internal", unique)
    try:
        arguments = ["create", "--name", unique, "--hostname", name, "--network", unique, "--stop-timeout", "30"]
        for capability in CAPABILITIES:
            arguments += ["--cap-add", capability]
        for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
            arguments += ["--security-opt", option]
        arguments += ["--cgroupns", "private", "--device-cgroup-rule", "a *:* rwm", "--sysctl", "net.ipv4.ip_forward=1"]
        arguments += ["--volume", "/var/lib/docker", "--volume", "/var/lib/lain", "--env", "LAIN_NODE_ISOLATED=1"]
        docker.run(*arguments, images.NODE.tag)
        try:
            docker.run("cp", "-", f"{unique}:/etc/docker", data=_stock_engine())
            docker.run("start", unique)
            inside = Docker(inside=unique)
            deadline = time.monotonic() + ENGINE_SECONDS
            while not inside.succeeds("version", "--format", "{{.Server.Version}}"):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the Engine of {unique} did not start: {docker.run('logs', unique)[-800:]}")
                time.sleep(0.1)
            yield NodeContainer(unique, docker=docker)
        finally:
            docker.succeeds("unpause", unique)
            docker.run("rm", "--force", "--volumes", unique)
    finally:
        docker.run("network", "rm", unique)


def _stock_engine() -> bytes:
    """The node's own ``daemon.json`` but for live-restore, as an archive for ``docker cp``."""
    content = json.dumps({**json.loads(DAEMON_JSON.read_text()), "live-restore": False}).encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("daemon.json")
        info.size, info.mode = len(content), 0o644
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@contextlib.asynccontextmanager
async def engine_of(node: NodeContainer) -> AsyncIterator[EngineApi]:
    api = EngineApi(node.socket)
    try:
        yield api
    finally:
        await api.close()


async def quiet(busy_at_most: float, *, for_seconds: float = 1.0, patience_seconds: float = 20.0) -> float:
    """Wait until this machine's processors are idle but for that share, so that what came before does not count; the share at the end."""
    deadline = time.monotonic() + patience_seconds
    while True:
        before = _processor_times()
        await asyncio.sleep(for_seconds)
        after = _processor_times()
        total = sum(after) - sum(before)
        idle = (after[3] + after[4]) - (before[3] + before[4])
        busy = 1 - idle / total if total else 0.0
        if busy <= busy_at_most or time.monotonic() > deadline:
            return busy


def _processor_times() -> list[int]:
    """user nice system idle iowait irq softirq steal, in ticks (proc(5))."""
    return [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
