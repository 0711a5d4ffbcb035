"""Reading what there is to know of a node: the kernel's files, its disks, its firewall, its certificates, and who answers.

Each step is bounded in time, and one that fails says so in ``unread``; it never stops the others. A round costs about 12 ms of CPU.

The time of others comes from the ``Date`` of an HTTP answer (RFC 9110 §6.6.1) of the registry and of each etcd member: parties that every
node asks anyway, that need not be trusted one by one, and whose answers bound the difference (``conditions.py``). Nothing is set by it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography import x509

from lain_deployd.agent import firewall
from lain_deployd.agent.engine import Credentials, Engine
from lain_deployd.agent.facts import ClockJump, Drop, FileSystem, Machine
from lain_deployd.agent.spec import BRIDGE
from lain_shared import conditions as words
from lain_shared.contact import Certificate, Contact, Question, ask
from lain_shared.errors import LainError, Unavailable
from lain_shared.model.node import Node
from lain_shared.records import Records
from lain_shared.tls import CERTIFICATE, client_context

T = TypeVar("T")

COMMAND_SECONDS = 5.0
JUMP_SECONDS = 1.0
"""What a clock that is kept never does between two looks."""
MOST_JUMPS = 10


@dataclass(frozen=True, slots=True)
class Sources:
    """Where to look. ``proc``: the kernel's files. ``places``: what of ours is on it → where. ``members``: ``host:port`` of etcd's.

    ``rules``: the packet filter, as ``nft`` tells it.
    """

    proc: Path = Path("/proc")
    places: Callable[[], Mapping[str, Path]] = dict
    registry: str = ""
    credentials: Callable[[], Credentials | None] = lambda: None
    members: Sequence[str] = ()
    tls_dir: Path | None = None
    rules: Callable[[], Awaitable[bytes]] = lambda: _command("nft", "-j", "list", "table", "ip", "filter")


class Gatherer:
    """One look after the other; it remembers what only two looks tell together: that the clock was set."""

    def __init__(
        self,
        sources: Sources,
        engine: Engine,
        *,
        block: Callable[[], str],
        nodes: Records[Node],
        node: str,
        clock: Callable[[], float] = time.time,
        passed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._sources, self._engine, self._block = sources, engine, block
        self._nodes, self._node = nodes, node
        self._others: Mapping[str, str] = {}
        """The other nodes that were there when the store last answered: name → address."""
        self._clock, self._passed = clock, passed
        self._loaded = _certificate_in(sources.tls_dir)
        self._last: tuple[float, float] | None = None
        self._jumps: tuple[ClockJump, ...] = ()

    async def look(self) -> Machine:
        """Everything, read now."""
        self._notice_jump()
        unread: dict[str, str] = {}
        contacts, listed, drops = await asyncio.gather(
            self._contacts(),
            _tried("containers", self._engine.glance(), unread),
            _tried("firewall", self._drops(), unread),
        )
        kernel = Kernel(self._sources.proc, unread)
        stalled, tasks, connections = kernel.memory_stalled(), kernel.tasks(), kernel.pair("nf_conntrack")
        files, memory = kernel.open_files(), kernel.memory()
        readings = tuple(one.reading for one in contacts if one.reading is not None)
        return Machine(
            at=self._clock(),
            file_systems=_file_systems(self._sources.places(), unread),
            memory_total_bytes=memory.get("MemTotal"),
            memory_available_bytes=memory.get("MemAvailable"),
            memory_stalled_percent=stalled,
            tasks=tasks[0],
            max_tasks=tasks[1],
            open_files=files[0],
            max_open_files=files[1],
            connections=connections[0],
            max_connections=connections[1],
            readings=readings,
            jumps=self._jumps,
            registry=next((one for one in contacts if one.of == "registry"), None),
            etcd=tuple(one for one in contacts if one.of == "etcd"),
            certificates=tuple(one.certificate for one in contacts if one.certificate is not None),
            own_certificate=self._loaded,
            disk_certificate=_certificate_in(self._sources.tls_dir),
            ip_forward=kernel.switch(words.IP_FORWARD_OFF, "sys/net/ipv4/ip_forward"),
            bridge_filter=kernel.switch(words.BRIDGE_FILTER_OFF, "sys/net/bridge/bridge-nf-call-iptables"),
            drops=drops,
            containers=listed,
            unread=unread,
        )

    def _notice_jump(self) -> None:
        now, passed = self._clock(), self._passed()
        if self._last is not None:
            seconds = (now - self._last[0]) - (passed - self._last[1])
            if abs(seconds) >= JUMP_SECONDS:
                self._jumps = (*self._jumps, ClockJump(now, seconds))[-MOST_JUMPS:]
        self._last = (now, passed)

    async def _drops(self) -> tuple[Drop, ...] | None:
        block = self._block()
        if not block:
            return None
        said = await self._sources.rules()
        with suppress(Unavailable):
            listed, _ = await self._nodes.list_readable()
            nodes = [stored.value for stored in listed if stored.value.name != self._node]
            self._others = {node.name: node.address for node in nodes if ":" not in node.address}
        uplink = Kernel(self._sources.proc, {}).uplink() or "eth0"
        return firewall.drops(msgspec.json.decode(said), block=block, bridge=BRIDGE, uplink=uplink, others=self._others)

    async def _contacts(self) -> tuple[Contact, ...]:
        sources = self._sources
        asked: list[Awaitable[Contact]] = []
        try:
            tls = client_context(sources.tls_dir) if sources.tls_dir is not None else None
        except LainError:
            tls = None
        if sources.registry:
            try:
                credentials = sources.credentials()
            except LainError:
                credentials = None
            headers = {} if credentials is None else {"Authorization": _basic(credentials)}
            asked.append(ask(Question("registry", sources.registry, "/v2/", headers), tls, clock=self._clock))
        asked += [ask(Question("etcd", member, "/version"), tls, clock=self._clock) for member in sources.members]
        return tuple(await asyncio.gather(*asked))


# --- the kernel -------------------------------------------------------------------------------------------------------


class Kernel:
    """The files of ``/proc``. What is not there is None, and said in ``unread``."""

    def __init__(self, proc: Path, unread: dict[str, str]) -> None:
        self._proc, self._unread = proc, unread

    def _read(self, file: str, needed_for: str) -> str | None:
        try:
            return (self._proc / file).read_text()
        except OSError as error:
            self._unread[needed_for] = f"{self._proc / file}: {error.strerror or error}"
            return None

    def memory(self) -> dict[str, int]:
        """``MemTotal``, ``MemAvailable`` … in bytes."""
        found: dict[str, int] = {}
        for line in (self._read("meminfo", "memory") or "").splitlines():
            name, _, rest = line.partition(":")
            words_of = rest.split()
            if len(words_of) == 2 and words_of[1] == "kB" and words_of[0].isdigit():
                found[name] = int(words_of[0]) * 1024
        return found

    def memory_stalled(self) -> float | None:
        """Of the last five minutes, in percent; None where the kernel keeps no pressure figures."""
        for line in (self._read("pressure/memory", "pressure") or "").splitlines():
            if line.startswith("full"):
                return float(dict(word.split("=") for word in line.split()[1:])["avg300"])
        return None

    def tasks(self) -> tuple[int | None, int | None]:
        """Processes and threads, and how many there can be."""
        load = (self._read("loadavg", words.PID_PRESSURE) or "").split()
        limits = [self._number(f"sys/kernel/{name}", words.PID_PRESSURE) for name in ("pid_max", "threads-max")]
        known = [one for one in limits if one is not None]
        return (int(load[3].partition("/")[2]) if len(load) > 3 else None), min(known, default=None)

    def open_files(self) -> tuple[int | None, int | None]:
        fields = (self._read("sys/fs/file-nr", words.OPEN_FILES_PRESSURE) or "").split()
        return (int(fields[0]), int(fields[2])) if len(fields) == 3 else (None, None)

    def pair(self, name: str) -> tuple[int | None, int | None]:
        """``<name>_count`` and ``<name>_max``."""
        folder = "sys/net/netfilter"
        used = self._number(f"{folder}/{name}_count", words.CONNTRACK_PRESSURE)
        return used, self._number(f"{folder}/{name}_max", words.CONNTRACK_PRESSURE)

    def switch(self, needed_for: str, file: str) -> bool | None:
        """A setting that is 0 or not. One whose module is not loaded is off; one that cannot be read is not known."""
        try:
            return (self._proc / file).read_text().strip() != "0"
        except FileNotFoundError:
            return False
        except OSError as error:
            self._unread[needed_for] = f"{self._proc / file}: {error.strerror or error}"
            return None

    def uplink(self) -> str:
        """The interface of the default route; "" without one."""
        for line in (self._read("net/route", "uplink") or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 7 and fields[1] == fields[7] == "00000000":
                return fields[0]
        return ""

    def _number(self, file: str, needed_for: str) -> int | None:
        text = (self._read(file, needed_for) or "").strip()
        return int(text) if text.isdigit() else None


def _file_systems(places: Mapping[str, Path], unread: dict[str, str]) -> tuple[FileSystem, ...]:
    found: list[FileSystem] = []
    for holds, path in places.items():
        try:
            told = os.statvfs(path)
        except OSError as error:
            unread["disk"] = f"{path}: {error.strerror or error}"
            continue
        found.append(
            FileSystem(
                holds,
                str(path),
                told.f_blocks * told.f_frsize,
                told.f_bavail * told.f_frsize,
                told.f_files,
                told.f_favail,
                bool(told.f_flag & os.ST_RDONLY) and holds != ENGINE_DATA,
            )
        )
    return tuple(found)


ENGINE_DATA = "the Engine's data"
"""A container's own root is on the disk of the Engine's data, and is often read-only for good."""


async def _command(*argv: str) -> bytes:
    """What a command says; ``OSError`` when it cannot be run or fails."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            said, trouble = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise OSError(trouble.decode(errors="replace").strip() or f"{argv[0]} ended with {process.returncode}")
    return said


async def _tried(what: str, step: Awaitable[T], unread: dict[str, str]) -> T | None:
    try:
        return await step
    except (LainError, OSError, TimeoutError, ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        unread[what] = str(error) or type(error).__name__
        return None


def _certificate_in(directory: Path | None) -> Certificate | None:
    """The agent's own, as it lies there; None when there is none that can be read."""
    if directory is None:
        return None
    try:
        found = x509.load_pem_x509_certificate((directory / CERTIFICATE).read_bytes())
    except (OSError, ValueError):
        return None
    return Certificate(
        "the agent's certificate", found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    )


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
