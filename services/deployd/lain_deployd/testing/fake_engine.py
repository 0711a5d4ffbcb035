"""``FakeEngine``: the ``Engine`` protocol in memory. Its containers run a very small shell: ``echo``, ``exit``, ``sleep``, ``trap ''``.

Beyond the protocol a test can take it away (``outage``), restart it (``restart``) and let containers die (``end``).
"""

from __future__ import annotations

import asyncio
import itertools
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from lain_deployd.agent.engine import (
    AddressTaken,
    BadLimits,
    Container,
    ContainerNameTaken,
    ContainerSpec,
    ContainerState,
    Credentials,
    EngineEvent,
    EngineInfo,
    EngineRefused,
    EngineUnavailable,
    ExecResult,
    Glance,
    Image,
    ImageAbsent,
    ImageMissing,
    Limits,
    LogChunk,
    MemoryInUse,
    NoSuchContainer,
    NotRunning,
    PullProgress,
    RegistryUnreachable,
)

MIN_MEMORY_BYTES = 6 * 1024 * 1024
ALIVE = (ContainerState.RUNNING, ContainerState.PAUSED)


@dataclass
class _Held:
    """A container and what it runs."""

    seen: Container
    spec: ContainerSpec
    output: list[tuple[float, LogChunk]] = field(default_factory=list)
    deaf: bool = False
    """It ignores SIGTERM."""


class FakeEngine:
    """An engine in memory. ``registry`` holds the references that a pull finds; ``calls`` counts what was asked, by verb."""

    def __init__(self, *, clock: Callable[[], float] = time.time, images: Mapping[str, Image] | None = None) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._networks: dict[str, str] = {}
        self._images = dict(images or {})
        self._events: list[EngineEvent] = []
        self._changed = asyncio.Event()
        self._away = False
        self._epoch = 0
        self._numbers = itertools.count(1)
        self.registry: dict[str, Image] = {}
        self.registry_away = False
        self.files: dict[str, bytes] = {"/etc/passwd": b"root:x:0:0::/:/bin/sh\napp:x:1234:2345::/:/bin/sh\n"}
        self.used_bytes = 1024 * 1024
        self.layers: dict[str, int] = {}
        """Container → bytes it wrote outside its volumes."""
        self.engine = EngineInfo("fake", "20.10.0", 2, 8 << 30, "6.1", live_restore=True)
        self.calls: dict[str, int] = {}

    # --- what a test may provoke --------------------------------------------------------------------------------------

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While inside, nothing answers and event streams end; containers live on."""
        self._away = True
        self._epoch += 1
        self._wake()
        try:
            yield
        finally:
            self._away = False
            self._wake()

    def restart(self, *, live_restore: bool = True) -> None:
        """The Engine's process starts anew: it forgets its events; without live-restore its containers were killed."""
        self._epoch += 1
        if not live_restore:
            for held in self._held.values():
                if held.seen.state in ALIVE:
                    held.seen = replace(
                        held.seen, state=ContainerState.EXITED, exit_code=255, finished_at=self._clock()
                    )
        self._events.clear()
        self._wake()

    def end(self, container: str, exit_code: int, *, oom_killed: bool = False) -> None:
        """The container's process ends by itself."""
        self._exit(self._find(container), exit_code, oom_killed=oom_killed)

    def say(self, container: str, text: str, stream: int = 1) -> None:
        held = self._find(container)
        held.output.append((self._clock(), LogChunk(stream, text.encode())))
        self._wake()

    # --- the Engine itself --------------------------------------------------------------------------------------------

    async def info(self) -> EngineInfo:
        self._reach("info")
        return replace(self.engine, containers=len(self._held))

    async def ensure_network(self, name: str, subnet: str, bridge: str) -> None:  # noqa: ARG002
        self._reach("ensure_network")
        if self._networks.setdefault(name, subnet) != subnet:
            raise EngineRefused(
                f"the Engine has a network {name} that is not ours",
                why=f"its subnet is {self._networks[name]}, wanted {subnet}",
            )

    # --- containers ---------------------------------------------------------------------------------------------------

    async def containers(self, labels: Mapping[str, str]) -> tuple[Container, ...]:
        self._reach("containers")
        return tuple(
            held.seen
            for held in self._held.values()
            if all(name in held.seen.labels and value in ("", held.seen.labels[name]) for name, value in labels.items())
        )

    async def glance(self) -> tuple[Glance, ...]:
        self._reach("glance")
        return tuple(
            Glance(one.name, one.state, one.labels, {held.spec.network or "none": one.address}, one.exit_code)
            for held in self._held.values()
            for one in [held.seen]
        )

    async def container(self, container: str) -> Container | None:
        self._reach("container")
        held = self._lookup(container)
        return None if held is None else held.seen

    async def create(self, spec: ContainerSpec) -> str:
        self._reach("create")
        if self._lookup(spec.name) is not None:
            raise ContainerNameTaken(f"container {spec.name} cannot be made", why=f"the name {spec.name} is in use")
        if spec.image not in self._images:
            raise ImageAbsent(f"container {spec.name} cannot be made", why=f"No such image: {spec.image}")
        self._check(spec.limits)
        number = next(self._numbers)
        container = Container(
            id=f"{number:064x}", name=spec.name, labels=dict(spec.labels), state=ContainerState.CREATED, image=spec.image,
            limits=spec.limits, address=spec.address, created_at=self._clock(),
        )  # fmt: skip
        self._held[container.id] = _Held(container, spec)
        self._tell("create", container)
        return container.id

    async def start(self, container: str) -> None:
        self._reach("start")
        held = self._find(container)
        if held.seen.state in ALIVE:
            return
        if held.spec.network and held.spec.network not in self._networks:
            raise EngineRefused(f"container {container} cannot be started", why="network not found")
        neighbours = (other.seen for other in self._held.values() if other is not held and other.seen.state in ALIVE)
        if held.seen.address and held.seen.address in {other.address for other in neighbours}:
            raise AddressTaken(f"container {container} cannot be started", why="Address already in use")
        command = (*(held.spec.entrypoint or ()), *(held.spec.command or ("sleep", "infinity")))
        if command[0].startswith("/nowhere"):
            held.seen = replace(held.seen, exit_code=None, error=f"exec: {command[0]!r}: no such file or directory")
            raise EngineRefused(f"container {container} cannot be started", why=held.seen.error)
        held.seen = replace(
            held.seen,
            state=ContainerState.RUNNING,
            started_at=self._clock(),
            exit_code=None,
            oom_killed=False,
            error="",
        )
        self._tell("start", held.seen)
        self._interpret(held, command)

    def _interpret(self, held: _Held, command: tuple[str, ...]) -> None:
        """What the container's program does before it sits and waits."""
        script = command[2] if command[:2] == ("sh", "-c") else shlex.join(command)
        for statement in script.split(";"):
            words = shlex.split(statement)
            match words:
                case ["trap", "", "TERM"]:
                    held.deaf = True
                case ["echo", *text]:
                    stream = 2 if text[-1:] == [">&2"] else 1
                    said = " ".join(text[: -1 if stream == 2 else None]) + "\n"
                    held.output.append((self._clock(), LogChunk(stream, said.encode())))
                case ["exit", code]:
                    return self._exit(held, int(code))
                case ["sleep", *_]:
                    return None
                case ["true"]:
                    pass
        return self._exit(held, 0)

    async def stop(self, container: str, timeout_seconds: int) -> None:  # noqa: ARG002
        self._reach("stop")
        held = self._lookup(container)
        if held is not None and held.seen.state in ALIVE:
            self._tell("kill", held.seen)
            self._exit(held, 137 if held.deaf else 143)

    async def kill(self, container: str) -> None:
        self._reach("kill")
        held = self._lookup(container)
        if held is not None and held.seen.state in ALIVE:
            self._tell("kill", held.seen)
            self._exit(held, 137)

    async def remove(self, container: str) -> None:
        self._reach("remove")
        held = self._lookup(container)
        if held is not None:
            if held.seen.state in ALIVE:
                self._exit(held, 137)
            del self._held[held.seen.id]
            self._tell("destroy", held.seen)

    async def update(self, container: str, limits: Limits) -> None:
        self._reach("update")
        held = self._find(container)
        self._check(limits)
        if held.seen.state in ALIVE and limits.memory_bytes < min(self.used_bytes, held.seen.limits.memory_bytes):
            raise MemoryInUse(container, self.used_bytes, limits)
        held.seen = replace(held.seen, limits=limits)
        self._tell("update", held.seen)

    async def memory_used(self, container: str) -> int | None:
        self._reach("memory_used")
        held = self._lookup(container)
        return self.used_bytes if held is not None and held.seen.state in ALIVE else None

    async def layer_bytes(self, container: str) -> int | None:
        self._reach("layer_bytes")
        return self.layers.get(container, 0) if self._lookup(container) is not None else None

    async def read_file(self, container: str, path: str) -> bytes | None:
        self._reach("read_file")
        return self.files.get(path) if self._lookup(container) is not None else None

    # --- images -------------------------------------------------------------------------------------------------------

    async def image(self, reference: str) -> Image | None:
        self._reach("image")
        return self._images.get(reference)

    async def pull(
        self,
        reference: str,
        credentials: Credentials | None,  # noqa: ARG002
        on_progress: Callable[[PullProgress], None],
    ) -> None:
        self._reach("pull")
        if self.registry_away:
            raise RegistryUnreachable(f"registry {reference.partition('/')[0]} cannot be reached from this node")
        if (found := self.registry.get(reference)) is None:
            raise ImageMissing(f"registry {reference.partition('/')[0]} has no image {reference.partition('/')[2]}")
        on_progress(PullProgress(found.size_bytes, found.size_bytes))
        self._images[reference] = found

    async def remove_image(self, reference: str) -> bool:
        self._reach("remove_image")
        if any(held.spec.image == reference for held in self._held.values()):
            return False
        self._images.pop(reference, None)
        return True

    # --- streams ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def logs(
        self, container: str, *, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int | None = None
    ) -> AsyncIterator[AsyncIterator[LogChunk]]:
        self._reach("logs")
        held = self._find(container)
        wanted = [item for item in held.output if item[0] >= since and (not until or item[0] <= until)]
        first = len(held.output)

        async def chunks() -> AsyncIterator[LogChunk]:
            for _, chunk in wanted if tail is None else wanted[-tail:] if tail else ():
                yield chunk
            said = first
            while follow and held.seen.state in ALIVE:
                for _, chunk in held.output[said:]:
                    yield chunk
                said = len(held.output)
                await self._next_change()

        yield chunks()

    @asynccontextmanager
    async def events(self, since_nano: int = 0) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        self._reach("events")
        first = 0 if since_nano else len(self._events)

        async def stream() -> AsyncIterator[EngineEvent]:
            told, epoch = first, self._epoch
            while self._epoch == epoch:
                for event in self._events[told:]:
                    told += 1
                    if event.at_nano >= since_nano:
                        yield event
                if self._epoch == epoch and told == len(self._events):
                    await self._next_change()
            if self._away:
                raise EngineUnavailable("events cannot be followed")

        yield stream()

    async def recent_events(self, since_nano: int) -> tuple[EngineEvent, ...]:
        self._reach("recent_events")
        return tuple(event for event in self._events if event.at_nano >= since_nano)

    # --- commands inside ----------------------------------------------------------------------------------------------

    async def run(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        self._reach("run")
        self._running(container)
        match command:
            case ("sleep", seconds) if float(seconds) > timeout_seconds:
                raise TimeoutError
            case ("false",):
                return ExecResult(1, "")
            case ("sh", "-c", script) if script.startswith("exit "):
                return ExecResult(int(script.split()[1]), "")
            case ("echo", *words):
                return ExecResult(0, " ".join(words))
        return ExecResult(0, "")

    @asynccontextmanager
    async def exec(
        self,
        container: str,
        command: tuple[str, ...],
        *,
        terminal: bool,  # noqa: ARG002
    ) -> AsyncIterator[FakeExecSession]:
        self._reach("exec")
        self._running(container)
        yield FakeExecSession(command)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _reach(self, verb: str) -> None:
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if self._away:
            raise EngineUnavailable("the Engine does not answer")

    def _lookup(self, container: str) -> _Held | None:
        found = self._held.get(container)
        return found or next((held for held in self._held.values() if held.seen.name == container), None)

    def _find(self, container: str) -> _Held:
        if (held := self._lookup(container)) is None:
            raise NoSuchContainer(f"No such container: {container}")
        return held

    def _running(self, container: str) -> _Held:
        held = self._find(container)
        if held.seen.state not in ALIVE:
            raise NotRunning(f"container {container} is not running")
        return held

    def _check(self, limits: Limits) -> None:
        if limits.memory_bytes < MIN_MEMORY_BYTES:
            raise BadLimits("Minimum memory limit allowed is 6MB")

    def _exit(self, held: _Held, exit_code: int, *, oom_killed: bool = False) -> None:
        held.seen = replace(
            held.seen,
            state=ContainerState.EXITED,
            exit_code=exit_code,
            oom_killed=oom_killed,
            finished_at=self._clock(),
        )
        self._tell("die", held.seen)

    def _tell(self, action: str, container: Container) -> None:
        at_nano = max(int(self._clock() * 1e9), self._events[-1].at_nano + 1 if self._events else 0)
        self._events.append(EngineEvent(at_nano, action, container.id, container.labels))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _next_change(self) -> None:
        await self._changed.wait()


class FakeExecSession:
    """``cat`` gives back its input, ``echo`` its words; the exit code of ``sh -c "exit N"`` is N."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._command = command
        self._output: asyncio.Queue[LogChunk | None] = asyncio.Queue()
        self._code = 0
        self.size: tuple[int, int] | None = None
        match command:
            case ("echo", *words):
                self._output.put_nowait(LogChunk(1, (" ".join(words) + "\n").encode()))
                self._output.put_nowait(None)
            case ("sh", "-c", script) if script.startswith("exit "):
                self._code = int(script.split()[1])
                self._output.put_nowait(None)

    async def read(self) -> LogChunk | None:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        await self._output.put(LogChunk(1, data))

    async def close_input(self) -> None:
        await self._output.put(None)

    async def resize(self, columns: int, rows: int) -> None:
        self.size = (columns, rows)

    async def exit_code(self) -> int | None:
        return self._code
