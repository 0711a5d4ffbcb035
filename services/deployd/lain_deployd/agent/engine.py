"""What the agent asks of a container engine, in our words: the protocol, its nouns, its failures.

Two implementations pass one contract suite (``tests/contract/test_docker.py``): ``adapters.docker.DockerEngine`` and
``testing.FakeEngine``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from lain_shared.errors import Conflict, Invalid, LainError, NotFound, Unavailable


class EngineUnavailable(Unavailable):
    """The Engine does not answer. Nothing is known about what it was asked to do."""

    code = "engine_unavailable"


class EngineRefused(LainError):
    """The Engine answered that it cannot do this; its words are in ``why``."""

    code = "engine_error"


class NoSuchContainer(NotFound):
    code = "no_such_container"


class NotRunning(Conflict):
    """The container is there but does not run."""

    code = "container_not_running"


class ContainerNameTaken(Conflict):
    """A container of that name exists: one of ours from an earlier try, or somebody else's."""

    code = "container_name_taken"


class AddressTaken(Conflict):
    """Another container on the network has that address."""

    code = "address_taken"


class TracesLeft(Conflict):
    """An earlier start of this very container broke off and left what no later one gets past: only another container does."""

    code = "traces_left"


class ImageAbsent(NotFound):
    """The image is not on this node."""

    code = "image_absent"


class ImageMissing(NotFound):
    """The registry answered that it has no such image."""

    code = "image_missing"


class RegistryUnreachable(Unavailable):
    """The registry did not answer, or does not let us in: trying again later can succeed."""

    code = "registry_unreachable"


class BadLimits(Invalid):
    """The Engine does not accept these limits."""

    code = "bad_limits"


class MemoryInUse(BadLimits):
    """More memory is in use than would be left."""

    code = "memory_in_use"

    def __init__(self, container: str, used_bytes: int, limits: Limits) -> None:
        super().__init__(f"container {container} uses {used_bytes} bytes of memory, more than {limits.memory_bytes}")
        self.used_bytes = used_bytes


class ContainerState(StrEnum):
    """``created``: never started (or its start failed). ``removing``/``dead``: on its way out."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    EXITED = "exited"
    REMOVING = "removing"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be changed while it runs. ``cpu_quota_percent`` of one core (None: none), memory in bytes, no swap."""

    memory_bytes: int
    cpu_quota_percent: float | None = None
    memory_reservation_bytes: int | None = None
    cpu_weight: int = 0
    """Its share of a CPU that several want: Docker's CPU shares, where 1024 is a container nobody said anything of. 0: that."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the node inside the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """All the Engine needs to make a container. Hardening is not optional and therefore not in here: the adapter always applies it."""

    name: str
    image: str
    labels: Mapping[str, str]
    limits: Limits
    network: str = ""
    """Name of a network; "": none at all."""
    address: str = ""
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = ""
    hostname: str = ""
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    stop_timeout_seconds: int = 10
    log_max_bytes: int = 10 * 1024 * 1024
    log_files: int = 3
    processes: int = 2048
    """Threads count as well."""
    open_files: int = 16_384
    """Of each process. Low enough for an Engine that may not raise its own limit."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container as it stands. Times are seconds since the epoch; None: never."""

    id: str
    name: str
    labels: Mapping[str, str]
    state: ContainerState
    image: str
    limits: Limits
    address: str = ""
    """The address it was given, running or not."""
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    error: str = ""
    """Why its last start failed, in the Engine's words."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image on this node. ``user`` is its default user ("": root)."""

    id: str
    references: tuple[str, ...]
    size_bytes: int
    user: str = ""


@dataclass(frozen=True, slots=True)
class Glance:
    """A container as the Engine's list shows it. ``addresses``: network → address, "" while it has none there."""

    name: str
    state: ContainerState
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The Engine and the machine it runs on. ``id`` is the installation's: a reinstalled node has another."""

    id: str
    version: str
    cpus: int
    memory_bytes: int
    kernel: str
    containers: int = 0
    live_restore: bool = False
    data_root: str = ""
    """Where on its machine the Engine keeps images and containers."""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """Something happened to a container. ``at_nano`` orders events; ``container`` is its id, ``labels`` its labels."""

    at_nano: int
    action: str
    container: str
    labels: Mapping[str, str]

    @property
    def identity(self) -> str:
        return f"{self.at_nano}:{self.action}:{self.container}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a registry lets us in."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is, in bytes of the layers known so far."""

    done_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of output. ``stream``: 1 standard output, 2 standard error."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    output: str


class ExecSession(Protocol):
    """A command running in a container, with its standard input and a terminal if asked for."""

    async def read(self) -> LogChunk | None:
        """The next output; None when the command closed its output."""

    async def write(self, data: bytes) -> None: ...

    async def close_input(self) -> None:
        """End of input: the command reads EOF."""

    async def resize(self, columns: int, rows: int) -> None: ...

    async def exit_code(self) -> int | None:
        """After the output ended; None while it still runs."""


class Engine(Protocol):
    """A container engine. Every call raises ``EngineUnavailable`` when it does not answer, ``EngineRefused`` when it will not."""

    async def info(self) -> EngineInfo: ...

    async def containers(self, labels: Mapping[str, str]) -> tuple[Container, ...]:
        """Every container, running or not, that carries all of ``labels`` ("" as value: any value)."""

    async def glance(self) -> tuple[Glance, ...]:
        """Every container there is, whoever made it: one call, however many."""

    async def container(self, container: str) -> Container | None:
        """One container by id or name."""

    async def create(self, spec: ContainerSpec) -> str:
        """Make a container; returns its id. ``ImageAbsent``, ``ContainerNameTaken``."""

    async def start(self, container: str) -> None:
        """Start it; already running is success. ``AddressTaken``, ``NoSuchContainer``."""

    async def stop(self, container: str, timeout_seconds: int) -> None:
        """SIGTERM (or the image's own stop signal), SIGKILL after the timeout. Not running, or gone, is success."""

    async def kill(self, container: str) -> None:
        """SIGKILL at once. Not running, or gone, is success."""

    async def remove(self, container: str) -> None:
        """Remove it and its anonymous volumes, killing it if it runs. Gone is success."""

    async def update(self, container: str, limits: Limits) -> None:
        """Change limits of a container, running or not. ``BadLimits`` when the Engine does not accept them, ``MemoryInUse``."""

    async def memory_used(self, container: str) -> int | None:
        """Bytes in use without reclaimable cache; None when it does not run. May take the Engine a second."""

    async def image(self, reference: str) -> Image | None: ...

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        """Bring an image here. ``ImageMissing``, ``RegistryUnreachable``."""

    async def remove_image(self, reference: str) -> bool:
        """Remove it unless a container uses it; True if it went."""

    async def ensure_network(self, name: str, subnet: str, bridge: str) -> None:
        """The bridge network ``name`` on ``subnet``: no traffic between its containers, no masquerade.

        ``EngineRefused`` when one of that name is there and is otherwise.
        """

    async def layer_bytes(self, container: str) -> int | None:
        """What it has written outside its volumes; None when it is gone. It is counted file by file: not for every pass."""

    async def read_file(self, container: str, path: str) -> bytes | None:
        """A file out of a container, running or not; None when it has none."""

    def logs(
        self, container: str, *, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[LogChunk]]:
        """Its output. Leaving the context early ends the stream."""

    def events(self, since_nano: int = 0) -> AbstractAsyncContextManager[AsyncIterator[EngineEvent]]:
        """Container events from ``since_nano`` on (0: from now), as far back as the Engine remembers. Ends when the Engine goes away."""

    async def recent_events(self, since_nano: int) -> tuple[EngineEvent, ...]:
        """What the running Engine process remembers of events since then: it remembers nothing across its own restart."""

    async def run(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        """Run a command inside to its end. ``NotRunning``; ``TimeoutError`` when it takes too long."""

    def exec(
        self, container: str, command: tuple[str, ...], *, terminal: bool
    ) -> AbstractAsyncContextManager[ExecSession]:
        """An interactive command inside. ``NotRunning``."""
