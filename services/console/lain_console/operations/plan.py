"""What an operation would do, and whether it may: the diff and the verdict that ``--plan`` shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from lain_console.operations.overrides import override_values
from lain_console.wording import size
from lain_sdk.api_types import ChangeAction, FieldChange, PlanView, Problem, ProcChange, Verdict
from lain_shared.model.app import OperationKind
from lain_shared.model.pod import Desired, Probe, ProcType, Strategy, same_but_resources
from lain_shared.placement import Ask, BadFilter, Room, place

MIB = 1024 * 1024
VERSION_VARIABLE = "LAIN_APP_RELEASE_VERSION"


def make_plan(
    app: str,
    kind: OperationKind,
    *,
    before: Mapping[str, Desired],
    after: Mapping[str, Desired],
    oneshots: Sequence[Desired] = (),
    refusals: Iterable[Problem] = (),
    warnings: Iterable[Problem] = (),
    release: int | None = None,
    parent: int | None = None,
    meta_version: str = "",
    parent_meta_version: str = "",
) -> PlanView:
    """The plan that leads from ``before`` to ``after`` (both with overrides applied). ``oneshots`` will run first."""
    changes = [ProcChange(each.proc, each.type, ChangeAction.RUN) for each in oneshots]
    for proc in sorted(before.keys() | after.keys()):
        change = _proc_change(before.get(proc), after.get(proc))
        if change is not None:
            changes.append(change)
    old, new = _route_names(before.values()), _route_names(after.values())
    refused = tuple(refusals)
    if refused:
        verdict = Verdict.REFUSED
    elif all(change.action is ChangeAction.KEEP for change in changes):
        verdict = Verdict.NOTHING
    else:
        verdict = Verdict.GO
    return PlanView(
        app,
        kind,
        verdict,
        release=release,
        parent=parent,
        meta_version=meta_version,
        parent_meta_version=parent_meta_version,
        changes=tuple(changes),
        routes_added=tuple(sorted(new - old)),
        routes_removed=tuple(sorted(old - new)),
        refusals=refused,
        warnings=tuple(warnings),
        images={each.proc: each.template.image for each in (*oneshots, *after.values())},
    )


def _route_names(procs: Iterable[Desired]) -> set[str]:
    return {str(route) for desired in procs for route in desired.routes}


def _proc_change(old: Desired | None, new: Desired | None) -> ProcChange | None:
    if new is None:
        if old is None or old.type is ProcType.ONESHOT:
            return None
        return ProcChange(old.proc, old.type, ChangeAction.REMOVE)
    if old is None:
        return ProcChange(new.proc, new.type, ChangeAction.ADD, changes=_differences(None, new))
    changes = _differences(old, new)
    if not changes:
        return ProcChange(new.proc, new.type, ChangeAction.KEEP)
    in_place = same_but_resources(old.template, new.template) and old.restarts == new.restarts
    return ProcChange(new.proc, new.type, ChangeAction.CHANGE, changes=changes, in_place=in_place)


def _differences(old: Desired | None, new: Desired) -> tuple[FieldChange, ...]:
    now = _facts(new)
    then = _facts(old) if old is not None else {}
    found = [
        FieldChange(name, then.get(name, ""), now.get(name, ""))
        for name in [*now, *(name for name in then if name not in now)]
        if then.get(name, "") != now.get(name, "")
    ]
    return (*found, *_env_differences(old.template.env if old is not None else {}, new.template.env))


def _env_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[FieldChange]:
    """Which variables differ; never their values, which may be secrets."""
    return [
        FieldChange(f"env {name}", "set" if name in old else "", _env_text(name, old, new))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name != VERSION_VARIABLE
    ]


def _env_text(name: str, old: Mapping[str, str], new: Mapping[str, str]) -> str:
    if name not in new:
        return ""
    return "set to another value" if name in old else "set"


def _facts(desired: Desired) -> dict[str, str]:
    """What people may care about, in their words, in the order in which they care."""
    template = desired.template
    facts = {
        "type": desired.type.value,
        "version": template.env.get(VERSION_VARIABLE, ""),
        "image": template.image,
        "instances": str(desired.instances),
        "stopped": ", ".join(map(str, desired.stopped)),
        "restarts": ", ".join(f"{number}: {times}" for number, times in sorted(desired.restarts.items())),
        "set by scale": ", ".join(override_values(desired.overrides)),
        "cpu": str(template.cpu) if template.cpu else "a share",
        "memory": size(template.memory_bytes),
        "memory_request": size(template.request_bytes) if template.memory_request_bytes is not None else "",
        "command": _words(template.command),
        "entrypoint": _words(template.entrypoint),
        "user": template.user,
        "working_dir": template.working_dir,
        "port": str(template.port or ""),
        "routes": ", ".join(
            sorted(f"{route}{' (https only)' if route.https_only else ''}" for route in desired.routes)
        ),
        "readiness": _probe(template.readiness),
        "liveness": _probe(template.liveness),
        "startup": _probe(template.startup),
        "volumes": ", ".join(volume.path for volume in template.volumes),
        "read_only": "yes" if template.read_only else "",
        "strategy": desired.strategy.value,
        "max_surge": str(desired.max_surge),
        "singleton": "yes" if desired.singleton else "",
        "stateful": "yes" if desired.stateful else "",
        "filters": ", ".join(desired.filters),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(template.labels.items())),
        "kill_timeout": f"{template.kill_timeout_seconds} s",
        "drain": f"{desired.drain_seconds:g} s",
        "min_ready": f"{desired.min_ready_seconds:g} s",
        "deploy_deadline": f"{desired.deploy_deadline_seconds:g} s",
        "proxy": ", ".join(f"{name}={value}" for name, value in _proxy(desired).items()),
        "log": f"{template.log_files} × {size(template.log_max_bytes)}",
    }
    return {name: text for name, text in facts.items() if text}


def _proxy(desired: Desired) -> dict[str, object]:
    proxy = desired.proxy
    facts = {
        "read_timeout": proxy.read_timeout_seconds,
        "max_body": proxy.max_body_bytes,
        "buffering": proxy.buffering,
        "sticky": proxy.sticky,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _words(words: tuple[str, ...] | None) -> str:
    return "" if words is None else " ".join(words) or "(none)"


def _probe(probe: Probe | None) -> str:
    if probe is None:
        return ""
    what = {"http": f"GET {probe.path} on {probe.port}", "tcp": f"connect to {probe.port}"}
    return what.get(probe.kind.value, " ".join(probe.command)) + f" every {probe.interval_seconds:g} s"


# --- limits and room --------------------------------------------------------------------------------------------------


def judge_limits(desired: Desired) -> tuple[Problem, ...]:
    """What no cluster could run."""
    found = []
    if desired.singleton and desired.instances > 1:
        found.append(
            Problem(
                "singleton",
                f"{desired.proc} is a singleton: it runs once at most, not {desired.instances} times",
                next="scale it to 1 or 0, or drop singleton from lain.yaml",
                proc=desired.proc,
            )
        )
    if not 0 <= desired.instances <= 1000:
        found.append(Problem("instances", f"{desired.proc}: instances must be 0..1000", proc=desired.proc))
    if not 0 <= desired.template.cpu <= 8:
        found.append(Problem("cpu", f"{desired.proc}: cpu must be 0..8", proc=desired.proc))
    if desired.template.memory_bytes < 6 * MIB:
        found.append(
            Problem(
                "memory", f"{desired.proc}: memory must be at least 6 MiB (the Engine's minimum)", proc=desired.proc
            )
        )
    return tuple(found)


def judge_room(
    before: Mapping[str, Desired], after: Mapping[str, Desired], rooms: Mapping[str, Room]
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """(refusals, warnings): would it find nodes? ``rooms`` are the nodes with what runs on them now; they are not changed.

    Refused is what would not fit once it is done; a lack of room for the surge on the way there is a warning. All of it is advisory: the
    controller judges again when the time comes.
    """
    refusals: list[Problem] = []
    warnings: list[Problem] = []
    mine = {name: _copy(room) for name, room in rooms.items()}
    for proc, desired in sorted(after.items()):
        old = before.get(proc)
        try:
            refused, warned = _judge_proc(old, desired, mine)
        except BadFilter as error:
            refused, warned = Problem("bad_filter", error.message, why=error.why, next=error.next, proc=proc), None
        refusals.extend([refused] if refused is not None else [])
        warnings.extend([warned] if warned is not None else [])
    return tuple(refusals), tuple(warnings)


def _judge_proc(old: Desired | None, desired: Desired, rooms: dict[str, Room]) -> tuple[Problem | None, Problem | None]:
    """The same for one proc, which takes its place in ``rooms``."""
    ask = Ask(desired.app, desired.proc, desired.template, desired.filters)
    wanted = max(desired.instances - len(desired.stopped), 0)
    if old is not None and (old.template, old.filters) == (desired.template, desired.filters):
        more = max(wanted - max(old.instances - len(old.stopped), 0), 0)
        return _fit(ask, more, rooms), None
    warning = None
    in_place = old is not None and same_but_resources(old.template, desired.template)
    if old is not None and not in_place and wanted and desired.strategy is Strategy.START_FIRST:
        surge = _fit(ask, min(desired.max_surge, wanted), {name: _copy(room) for name, room in rooms.items()})
        if surge is not None:
            warning = replace(surge, why="an old pod would have to go before a new one can start")
    if old is not None:
        for room in rooms.values():
            for _ in range(room.procs[desired.app, desired.proc]):
                room.give_back(desired.app, desired.proc, old.template)
    refusal = _fit(ask, wanted, rooms)
    if refusal is not None and old is None and desired.overrides.any:
        values = ", ".join(f"{name} {value}" for name, value in override_values(desired.overrides).items())
        refusal = replace(
            refusal, why=f"lain scale set {values}", next=f"lain scale {desired.app} {desired.proc} --reset"
        )
    return refusal, None if refusal is not None else warning


def _fit(ask: Ask, count: int, rooms: dict[str, Room]) -> Problem | None:
    """Place ``count`` pods in ``rooms``; None when all of them find room."""
    for number in range(count):
        verdict = place(ask, rooms)
        if verdict.node is None:
            why = (
                f"{count} pod{'s' if count > 1 else ''} would have to find a place, {number} would" if count > 1 else ""
            )
            return Problem(
                "no_node", f"{ask.proc}: {verdict.sentence}", why=why, next="lainctl node list", proc=ask.proc
            )
        rooms[verdict.node].take(ask.app, ask.proc, ask.template)
    return None


def _copy(room: Room) -> Room:
    return replace(room, procs=room.procs.copy(), pod_labels=room.pod_labels.copy())
