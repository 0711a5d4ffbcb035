"""Use cases on running procs: scale, restart, stop, start. They change ``desired`` at once, without a new release."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from lain_console.operations.candidate import PlanRefused
from lain_console.operations.desired import restored
from lain_console.operations.overrides import override_values, with_overrides
from lain_console.operations.plan import judge_limits, judge_room, make_plan
from lain_console.operations.start import Intent, Starter
from lain_console.releases import Started, read_rooms
from lain_console.state import Scene, State
from lain_sdk.api_types import PlanView, Verdict
from lain_shared.errors import Conflict, NotFound, Refused
from lain_shared.model.app import OperationKind, OperationPhase, Release
from lain_shared.model.pod import Desired, ProcType

log = structlog.get_logger()

LASTING = frozenset({ProcType.WEB, ProcType.WORKER})


@dataclass(frozen=True, slots=True)
class Scaling:
    """What ``scale`` was asked for; None: leave it. ``reset``: first back to the manifest's values."""

    instances: int | None = None
    cpu: int | None = None
    memory_bytes: int | None = None
    reset: bool = False


@dataclass(frozen=True, slots=True)
class Footing:
    """What a change of procs stands on: the release that runs (or would be gone back to) and its ``desired``."""

    release: Release
    before: Mapping[str, Desired]


@dataclass(frozen=True, slots=True)
class Procs:
    """Scale, restart, stop, start."""

    state: State
    starter: Starter

    async def scale(self, app: str, proc: str, scaling: Scaling, who: str, *, replace_running: bool = False) -> Started:
        if scaling == Scaling(reset=True) and await self._forget(app, proc, who):
            return Started(make_plan(app, OperationKind.SCALE, before={}, after={}), None)

        def change(footing: Footing) -> dict[str, Desired]:
            live = _lasting(app, proc, footing)
            base = next(each for each in footing.release.procs if each.proc == proc)
            wanted = {} if scaling.reset else override_values(live.overrides)
            for name in ("instances", "cpu", "memory_bytes"):
                if (value := getattr(scaling, name)) is not None:
                    wanted[name] = value
            scaled = with_overrides(base, wanted)
            stopped = tuple(number for number in live.stopped if number <= scaled.instances)
            return {proc: replace(scaled, stopped=stopped, restarts=live.restarts)}

        text = "scale " + proc + (" back to the manifest" if scaling.reset else "")
        return await self._start(app, who, OperationKind.SCALE, text, change, replace_running=replace_running)

    async def _forget(self, name: str, proc: str, who: str) -> bool:
        """What scale set outlives an undeploy, and may be why the app cannot be deployed again: it is taken back without a rollout."""
        scene = await self.state.scene(name)
        app = scene.app.value
        if scene.operation is not None or app.release is not None or proc not in app.overrides:
            return False
        rest = {other: values for other, values in app.overrides.items() if other != proc}
        try:
            await self.state.apps.put(replace(app, overrides=rest), name, expect=scene.app.entry.mod_revision)
        except Conflict as error:
            raise Conflict(
                f"{name} was changed meanwhile",
                why="what scale set was not taken back",
                next="try again",
                retry_seconds=1.0,
            ) from error
        log.info("overrides_reset", app=name, proc=proc, who=who)
        return True

    async def restart(self, app: str, proc: str | None, instance: int | None, who: str) -> Started:
        def change(footing: Footing) -> dict[str, Desired]:
            changed = {}
            for live in _chosen(app, proc, footing):
                numbers = _instances(live, instance) if instance is not None else _running(live)
                if instance is not None and instance in live.stopped:
                    raise Conflict(
                        f"instance {instance} of {live.proc} is stopped",
                        next=f"start it: lain start {app} {live.proc} {instance}",
                        code="stopped",
                    )
                restarts = {**live.restarts, **{number: live.restarts.get(number, 0) + 1 for number in numbers}}
                changed[live.proc] = replace(live, restarts=restarts)
            return changed

        return await self._start(app, who, OperationKind.RESTART, f"restart {_name(proc, instance)}", change)

    async def stop(
        self, app: str, proc: str | None, instance: int | None, who: str, *, replace_running: bool = False
    ) -> Started:
        def change(footing: Footing) -> dict[str, Desired]:
            return {
                live.proc: replace(live, stopped=tuple(sorted({*live.stopped, *_instances(live, instance)})))
                for live in _chosen(app, proc, footing)
            }

        text = f"stop {_name(proc, instance)}"
        return await self._start(app, who, OperationKind.STOP, text, change, replace_running=replace_running)

    async def start(self, app: str, proc: str | None, instance: int | None, who: str) -> Started:
        def change(footing: Footing) -> dict[str, Desired]:
            return {
                live.proc: replace(live, stopped=tuple(sorted(set(live.stopped) - set(_instances(live, instance)))))
                for live in _chosen(app, proc, footing)
            }

        return await self._start(app, who, OperationKind.START, f"start {_name(proc, instance)}", change)

    async def _start(
        self,
        app: str,
        who: str,
        kind: OperationKind,
        text: str,
        change: Callable[[Footing], dict[str, Desired]],
        *,
        replace_running: bool = False,
    ) -> Started:
        plans: list[PlanView] = []

        async def plan(scene: Scene) -> Intent | None:
            footing = await self._footing(scene)
            changed = change(footing)
            after = {**footing.before, **changed}
            limits = [problem for desired in changed.values() for problem in judge_limits(desired)]
            no_room, tight = judge_room(footing.before, after, await read_rooms(self.state))
            view = make_plan(
                app,
                kind,
                before=footing.before,
                after=after,
                refusals=(*limits, *no_room),
                warnings=tight,
                release=footing.release.number,
                parent=footing.release.number,
                meta_version=footing.release.meta_version,
                parent_meta_version=footing.release.meta_version,
            )
            plans.append(view)
            if view.verdict is Verdict.REFUSED:
                raise PlanRefused(view)
            taking_over = scene.operation is not None
            if view.verdict is Verdict.NOTHING and not taking_over:
                return None
            put, delete = restored(after, scene.wanted) if taking_over else (tuple(changed.values()), ())
            return Intent(
                kind,
                OperationPhase.ROLLOUT,
                footing.release.number,
                text,
                desired=put,
                delete=delete,
                procs=() if taking_over else tuple(changed),
                deadline_seconds=max((each.deploy_deadline_seconds for each in changed.values()), default=300.0),
            )

        operation = await self.starter.start(app, who, plan, replace_running=replace_running)
        return Started(plans[-1], operation)

    async def _footing(self, scene: Scene) -> Footing:
        app, running = scene.app.value, scene.operation
        number = running.value.parent if running is not None else app.release
        if number is None:
            raise NotFound(
                f"app {app.name!r} is not deployed",
                next=f"deploy it: lain deploy {app.name}" if running is None else f"lain cancel {app.name}",
                code="not_deployed",
            )
        before = running.value.before if running is not None else scene.wanted
        return Footing(await self.state.release(app.name, number), before)


def _lasting(app: str, proc: str, footing: Footing) -> Desired:
    live = footing.before.get(proc)
    if live is None:
        raise NotFound(
            f"app {app!r} has no proc {proc!r}",
            evidence={"procs": sorted(footing.before)},
            next=f"its procs: {', '.join(sorted(footing.before)) or 'none'}",
            code="proc_not_found",
        )
    if live.type not in LASTING:
        raise Refused(
            f"{proc} is a {live.type.value}: it is not scaled, stopped or restarted",
            why="a oneshot runs once a release; a portal runs beside its clients",
            next=f"to run it again, deploy again: lain deploy {app}",
            code="not_lasting",
        )
    return live


def _chosen(app: str, proc: str | None, footing: Footing) -> Iterable[Desired]:
    if proc is not None:
        return (_lasting(app, proc, footing),)
    return tuple(live for _, live in sorted(footing.before.items()) if live.type in LASTING)


def _instances(live: Desired, instance: int | None) -> tuple[int, ...]:
    if instance is None:
        return tuple(range(1, live.instances + 1))
    if not 1 <= instance <= live.instances:
        raise NotFound(
            f"{live.proc} of {live.app} has no instance {instance}",
            why=f"it has {live.instances}, numbered from 1",
            code="instance_not_found",
        )
    return (instance,)


def _running(live: Desired) -> tuple[int, ...]:
    return tuple(number for number in range(1, live.instances + 1) if number not in live.stopped)


def _name(proc: str | None, instance: int | None) -> str:
    if proc is None:
        return "every proc"
    return proc if instance is None else f"{proc} {instance}"
