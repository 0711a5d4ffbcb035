"""Carrying out one action of the plan on one pod. Each arm is idempotent: "already so" is success."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from lain_deployd.agent import volumes
from lain_deployd.agent.engine import (
    AddressTaken,
    BadLimits,
    Container,
    ContainerNameTaken,
    ContainerSpec,
    ContainerState,
    Engine,
    EngineRefused,
    EngineUnavailable,
    Image,
    ImageAbsent,
    ImageMissing,
    Limits,
    MemoryInUse,
    NoSuchContainer,
    RegistryUnreachable,
    TracesLeft,
)
from lain_deployd.agent.images import Images
from lain_deployd.agent.limits import same
from lain_deployd.agent.plan import after_exit, after_failure, is_crash
from lain_deployd.agent.pods import (
    LABEL_NODE,
    LABEL_POD,
    Action,
    Create,
    Forget,
    Ground,
    Memory,
    NoteExit,
    NoteUnready,
    Order,
    Remove,
    Restart,
    Start,
    Stop,
    Update,
    View,
)
from lain_deployd.agent.slots import Slots, Turn
from lain_deployd.agent.spec import Place, container_of
from lain_shared.errors import LainError
from lain_shared.model.pod import Evidence, PodId

log = structlog.get_logger()

EVIDENCE_LINES = 20
MAX_TEXT = 1_000
EVIDENCE_LINE_BYTES = 500
LATE_LINES_SECONDS = 0.1
UPDATE_RETRY_SECONDS = 30.0
REGISTRY_RETRY_SECONDS = 15.0
PARALLEL_STOPS = 6
BRISK_SECONDS = 0.5
"""Who takes longer to end lets the next one begin to."""
"""A registry that comes back is noticed within this."""
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an action left behind. ``memory`` None: nothing is remembered of the pod any more."""

    memory: Memory | None
    containers: tuple[Container, ...]
    ok: bool = True
    looked_nano: int = 0
    """When ``containers`` was the truth (nanoseconds since the epoch): events up to then tell nothing new. 0: nobody looked."""


class Executor:
    """Acts on the Engine of this node. ``known_volumes`` names the instances that are known to have data here."""

    def __init__(
        self,
        engine: Engine,
        images: Images,
        place: Callable[[], Place],
        known_volumes: Callable[[], Iterable[str]],
        *,
        on_volume: Callable[[str], None] = lambda _name: None,
        on_step: Callable[[str, float], None] = lambda _step, _seconds: None,
        clock: Callable[[], float] = time.time,
        parallel_starts: int = 4,
    ) -> None:
        self._engine = engine
        self._images = images
        self._place = place
        self._known_volumes, self._on_volume = known_volumes, on_volume
        self._on_step = on_step
        self._clock = clock
        self._slots = Slots(parallel_starts)
        self._stops = asyncio.Semaphore(PARALLEL_STOPS)
        self.bringing: set[PodId] = set()
        """Pods whose image is on its way: nothing of them is made, and who waits may stop waiting."""
        self._owners: dict[tuple[str, str], tuple[int, int]] = {}

    async def carry_out(self, action: Action, view: View, ground: Ground, tell: Callable[[str], None]) -> Outcome:
        """Do it; a failure is in the outcome's memory. Raises only ``EngineUnavailable``: then nothing is known, and nothing changed.

        ``tell`` is told what is going on, in words, for people.
        """
        memory = view.memory or Memory()
        try:
            match action:
                case Create(_, address) if view.order is not None:
                    return await self._create(view.order, replace(memory, address=address), tell)
                case Start(_, container):
                    return await self._start(view, container, memory)
                case NoteExit(_, container):
                    return await self._note_exit(view, container, memory, ground)
                case NoteUnready(_, container, text):
                    return await self._note_unready(view, container, memory, text)
                case Restart(_, container, timeout, because):
                    tell("restarting")
                    log.info("pod_restarting", pod=str(view.pod), because=because)
                    await self._stop(container, timeout)
                    return await self._look(view, memory)
                case Update(_, container, _):
                    return await self._update(view, action, container, memory)
                case Stop(_, container, timeout):
                    tell("stopping")
                    began = self._clock()
                    await self._stop(container, timeout)
                    self._took("pod_stopped", "stop", view.pod, began)
                    return await self._remove(view, container)  # nothing is asked of it any more but that it goes
                case Remove(_, container):
                    return await self._remove(view, container)
                case Forget():
                    log.info("pod_gone", pod=str(view.pod))
                    return Outcome(None, ())
        except EngineUnavailable:
            raise
        except NoSuchContainer:
            return await self._look(view, memory)
        except LainError as error:
            return await self._failed(action, view, memory, error)
        return Outcome(memory, view.containers)

    # --- making and starting ------------------------------------------------------------------------------------------

    async def _create(self, order: Order, memory: Memory, tell: Callable[[str], None]) -> Outcome:
        place = self._place()
        root = Path(place.volumes_root)
        try:
            spec = container_of(order.assignment, memory.address, place)
            if order.assignment.template.volumes:
                await asyncio.to_thread(volumes.require, order.assignment, root, tuple(self._known_volumes()))
            image = await self._bring(order.pod, spec.image, tell)
            try:
                container = await self._make(order.pod, spec, image)
            except ImageAbsent:  # it was here a moment ago
                self._images.forget(spec.image)
                container = await self._make(order.pod, spec, await self._bring(order.pod, spec.image, tell))
        except EngineUnavailable:
            raise
        except LainError as error:
            return self._refused(order, memory, error)
        if order.assignment.template.volumes:
            self._on_volume(volumes.name_of(order.assignment))
        # its own address counts: one that is there already was made by an agent before this one
        made = replace(memory, address=container.address or memory.address, error="")
        return Outcome(made, (container,), looked_nano=time.time_ns())

    async def _bring(self, pod: PodId, image: str, tell: Callable[[str], None]) -> Image:
        self.bringing.add(pod)
        try:
            return await self._images.have(image, tell)
        finally:
            self.bringing.discard(pod)

    async def _make(self, pod: PodId, spec: ContainerSpec, image: Image) -> Container:
        async with self._slots.one(Turn.CREATE):
            began = self._clock()
            container = await self._make_of(spec, image)
            self._took("pod_created", "create", pod, began, address=container.address, container=container.id[:12])
            return container

    async def _make_of(self, spec: ContainerSpec, image: Image) -> Container:
        user = spec.user or image.user
        known = (image.id, user)
        if volumes.is_numeric(user):
            self._owners[known] = volumes.owner_of(user)
        await asyncio.to_thread(volumes.make, spec.mounts, self._owners.get(known, (0, 0)))
        try:
            made = await self._engine.create(spec)
        except ContainerNameTaken:
            return await self._adopt(spec)
        if known not in self._owners:  # a name: only the image's own /etc/passwd knows who that is
            passwd = await self._engine.read_file(made, "/etc/passwd") or b""
            group = await self._engine.read_file(made, "/etc/group") or b"" if ":" in user else b""
            self._owners[known] = volumes.owner_of(user, passwd, group)
            await asyncio.to_thread(volumes.make, spec.mounts, self._owners[known])
        return Container(
            id=made,
            name=spec.name,
            labels=spec.labels,
            state=ContainerState.CREATED,
            image=spec.image,
            limits=spec.limits,
            address=spec.address,
            created_at=self._clock(),
        )

    def _took(self, event: str, step: str, pod: PodId, began: float, **more: str) -> None:
        seconds = self._clock() - began
        self._on_step(step, seconds)
        log.info(event, pod=str(pod), **more, seconds=round(seconds, 3))

    async def _adopt(self, spec: ContainerSpec) -> Container:
        """A container of this pod's name is there: ours from a try whose answer was lost, or somebody else's."""
        found = await self._engine.container(spec.name)
        if found is not None and all(found.labels.get(name) == spec.labels[name] for name in (LABEL_POD, LABEL_NODE)):
            return found
        raise EngineRefused(
            f"a container named {spec.name} is there that is not ours",
            next=f"rename or remove it: docker rename {spec.name} …",
        )

    async def _start(self, view: View, container: str, memory: Memory) -> Outcome:
        async with self._slots.one(Turn.START):
            began = self._clock()
            try:
                await self._engine.start(container)
            except TracesLeft as error:
                if view.container is not None and view.container.started_at is None:  # nothing in it is missed
                    await self._engine.remove(container)
                    return Outcome(after_failure(replace(memory, error=error.message), self._clock()), ())
                raise
            except AddressTaken as error:  # it never ran with it, so that nobody can know it yet: take another
                if view.container is not None and view.container.started_at is None:
                    await self._engine.remove(container)
                    return Outcome(after_failure(replace(memory, address="", error=error.message), self._clock()), ())
                raise
            self._took("pod_started", "start", view.pod, began, address=memory.address)
        return await self._look(view, replace(memory, failures=0, error="", retry_at=0.0))

    async def _stop(self, container: str, timeout_seconds: int) -> None:
        """End it. Fifty at once take the Engine a sixth longer than a few at a time; who takes its time holds up nobody."""
        stopping: asyncio.Task[None] | None = None
        try:
            async with self._stops:
                stopping = asyncio.create_task(
                    self._engine.stop(container, timeout_seconds), name=f"stop {container[:12]}"
                )
                await asyncio.wait({stopping}, timeout=BRISK_SECONDS)
            await stopping
        finally:
            if stopping is not None and not stopping.done():
                stopping.cancel()
                await asyncio.gather(stopping, return_exceptions=True)

    async def _remove(self, view: View, container: str) -> Outcome:
        await self._engine.remove(container)
        left = tuple(one for one in view.containers if one.id != container)
        return Outcome(view.memory or Memory(), left, looked_nano=time.time_ns())

    async def _look(self, view: View, memory: Memory) -> Outcome:
        """What is there now, read from the Engine."""
        asked_nano = time.time_ns()
        found = [await self._engine.container(container.id) for container in view.containers]
        return Outcome(memory, tuple(container for container in found if container is not None), looked_nano=asked_nano)

    # --- while it runs ------------------------------------------------------------------------------------------------

    async def _update(self, view: View, action: Update, container: str, memory: Memory) -> Outcome:
        wanted, refusal = action.limits, ""
        try:
            await self._engine.update(container, wanted)
        except MemoryInUse as error:
            current = view.container.limits.memory_bytes if view.container is not None else 0
            refusal = (
                f"memory stays at {current // MIB} MiB: {error.used_bytes / MIB:.1f} MiB are in use, "
                f"more than the {wanted.memory_bytes // MIB} MiB wanted"
            )
        except BadLimits as error:
            refusal = f"limits stay as they are: {error.why or error.message}"
        if refusal:
            log.warning("pod_update_refused", pod=str(view.pod), why=refusal)
            return Outcome(self._without(view, memory, wanted, refusal), view.containers, ok=False)
        log.info("pod_updated", pod=str(view.pod), memory_bytes=wanted.memory_bytes, cpu=wanted.cpu_quota_percent)
        seen = await self._look(view, replace(memory, refused=None, refused_until=0.0, refused_why=""))
        left = next((one.limits for one in seen.containers if one.id == container), wanted)
        if same(wanted, left):
            return seen
        text = f"limits are {_words(left)}, not {_words(wanted)}, though the Engine says that it changed them"
        log.warning("pod_update_without_effect", pod=str(view.pod), wanted=str(wanted), found=str(left))
        return replace(seen, memory=self._without(view, memory, wanted, text), ok=False)

    def _without(self, view: View, memory: Memory, wanted: Limits, why: str) -> Memory:
        """Limits that are not in force: why, and which order asked for them."""
        now = self._clock()
        return replace(
            memory,
            refused=wanted,
            refused_until=now + UPDATE_RETRY_SECONDS,
            refused_at=now,
            refused_by=view.order.revision if view.order is not None else 0,
            refused_why=why,
        )

    async def _note_exit(self, view: View, container: Container, memory: Memory, ground: Ground) -> Outcome:
        if view.order is None:
            return Outcome(memory, view.containers)
        kind = view.order.assignment.type
        noted = after_exit(memory, container, kind, ground)
        if noted.done_exit_code == 0 or not is_crash(container, ground.engine_since):
            log.info("pod_exited", pod=str(view.pod), exit_code=container.exit_code, crash=False)
            return Outcome(replace(noted, error=""), view.containers)
        because = view.health_now.restart_because if view.health_now is not None else ""
        text = how_it_ended(container, because)
        evidence = Evidence(
            at=container.finished_at or ground.now,
            reason=_reason_of_exit(container, memory, because),
            text=text,
            exit_code=container.exit_code,
            probe="" if memory.discard == container.id else because,
            last_lines=await self.last_lines(container, memory),
        )
        log.warning(
            "pod_crashed", pod=str(view.pod), exit_code=container.exit_code, oom_killed=container.oom_killed,
            restarts=noted.restarts, retry_seconds=max(0.0, round(noted.retry_at - ground.now, 1)),
        )  # fmt: skip
        return Outcome(replace(noted, evidence=evidence, error=text), view.containers, ok=False)

    async def _note_unready(self, view: View, container: Container, memory: Memory, text: str) -> Outcome:
        now = self._clock()
        lines = await self.last_lines(container, memory)
        if memory.unready_noted_at == 0.0:
            log.warning(
                "pod_not_ready", pod=str(view.pod), probe=text, seconds=round(now - (container.started_at or now))
            )
        evidence = Evidence(at=now, reason="probe_failed", text=f"not ready: {text}", probe=text, last_lines=lines)
        return Outcome(replace(memory, unready_noted_at=now, evidence=evidence, error=text), view.containers)

    async def last_lines(self, container: Container, memory: Memory) -> tuple[str, ...]:
        """The last output of its latest run; empty when it cannot be had: evidence must not stand in the way of acting."""
        try:
            output = b""
            async with (
                asyncio.timeout(5.0),
                self._engine.logs(container.id, since=after(memory.ended_at), tail=EVIDENCE_LINES) as chunks,
            ):
                async for chunk in chunks:
                    output += chunk.data
        except (LainError, TimeoutError):
            return ()
        lines = output.decode(errors="replace").splitlines()[-EVIDENCE_LINES:]
        return tuple(line[:EVIDENCE_LINE_BYTES] for line in lines)

    # --- failures -----------------------------------------------------------------------------------------------------

    def _refused(self, order: Order, memory: Memory, error: LainError) -> Outcome:
        """It could not be made: remembered with the reason, tried again later."""
        text = _text(error)
        evidence = Evidence(at=self._clock(), reason=_reason_of_error(error), text=text)
        if memory.error != text:  # one line an episode
            log.warning("pod_not_created", pod=str(order.pod), code=error.error_code, error=text)
        at_most = REGISTRY_RETRY_SECONDS if isinstance(error, RegistryUnreachable) else 300.0
        failed = after_failure(replace(memory, error=text, evidence=evidence), self._clock(), at_most_seconds=at_most)
        return Outcome(failed, (), ok=False)

    async def _failed(self, action: Action, view: View, memory: Memory, error: LainError) -> Outcome:
        text = _text(error)
        log.warning(
            "pod_action_failed", pod=str(view.pod), action=type(action).__name__, code=error.error_code, error=text
        )
        evidence = Evidence(at=self._clock(), reason="engine_error", text=text)
        seen = await self._look(view, memory)
        return replace(
            seen, memory=after_failure(replace(memory, error=text, evidence=evidence), self._clock()), ok=False
        )


def after(ended_at: float | None) -> float:
    """From when on output belongs to the run after the one that ended then. ``started_at`` will not do: the Engine notes it late.

    The Engine stamps lines when it reads them, and may read the last ones a little after the end.
    """
    return 0.0 if ended_at is None else ended_at + LATE_LINES_SECONDS


def how_it_ended(container: Container, restart_because: str) -> str:
    """The exit in words."""
    if restart_because:
        return f"restarted: {restart_because}"
    if container.oom_killed:
        return f"killed by the kernel: out of memory (limit {container.limits.memory_bytes // MIB} MiB)"
    ran = (container.finished_at or 0.0) - (container.started_at or 0.0)
    return f"exited with code {container.exit_code} after {max(0.0, ran):.1f} s"


def _words(limits: Limits) -> str:
    soft = f" ({limits.memory_reservation_bytes // MIB} MiB soft)" if limits.memory_reservation_bytes else ""
    cpu = "no CPU quota" if limits.cpu_quota_percent is None else f"{limits.cpu_quota_percent:g} % CPU"
    return f"{limits.memory_bytes // MIB} MiB{soft} and {cpu}"


def _reason_of_exit(container: Container, memory: Memory, because: str) -> str:
    if memory.discard == container.id:
        return "disk_full"
    return "probe_failed" if because else "oom_killed" if container.oom_killed else "exited"


def _text(error: LainError) -> str:
    """What failed and why. The Engine may quote a whole command, which a manifest may make long; this goes into the store."""
    text = f"{error.message}: {error.why}" if error.why else error.message
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _reason_of_error(error: LainError) -> str:
    match error:
        case ImageMissing():
            return "image_missing"
        case RegistryUnreachable():
            return "registry_unreachable"
        case volumes.VolumeMissing():
            return "volume_missing"
    return "engine_error"
