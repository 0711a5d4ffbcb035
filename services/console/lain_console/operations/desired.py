"""What a release makes of an app's ``desired``, and what makes it again what it was. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lain_console.operations.overrides import with_overrides
from lain_shared.model.app import App, Release
from lain_shared.model.pod import Desired, ProcType
from lain_shared.model.route import Route


def rolled_out(release: Release, app: App, before: Mapping[str, Desired]) -> tuple[Desired, ...]:
    """``desired`` of every long-running proc that ``release`` brings, overrides applied, what operators stopped still stopped.

    Routes the parent gave a proc and the release does not are kept until the operation ends; so are procs that only the parent has.
    """
    found = [
        replace(old, routes=(), kept_routes=old.routes)
        for proc, old in sorted(before.items())
        if old.routes and proc not in {wanted.proc for wanted in release.procs}
    ]
    for wanted in release.procs:
        if wanted.type is ProcType.ONESHOT or wanted.release != release.number:
            continue
        live = with_overrides(wanted, app.overrides.get(wanted.proc))
        old = before.get(wanted.proc)
        if old is not None:
            live = replace(
                live,
                stopped=tuple(number for number in old.stopped if number <= live.instances),
                restarts=old.restarts,
                kept_routes=_kept_routes(live, old),
            )
        found.append(live)
    return tuple(found)


def _kept_routes(new: Desired, old: Desired) -> tuple[Route, ...]:
    given = {(route.host, route.path) for route in new.routes}
    return tuple(route for route in old.routes if (route.host, route.path) not in given)


def oneshots_of(release: Release) -> tuple[Desired, ...]:
    """The oneshots that belong to this release and none before it."""
    return tuple(
        desired for desired in release.procs if desired.type is ProcType.ONESHOT and desired.release == release.number
    )


def restored(
    wanted: Mapping[str, Desired], current: Mapping[str, Desired]
) -> tuple[tuple[Desired, ...], tuple[str, ...]]:
    """What to put and which procs to delete so that ``current`` is ``wanted`` again. A oneshot never comes back: it would run again."""
    delete = tuple(
        proc
        for proc, stands in sorted(current.items())
        if (old := wanted.get(proc)) is None or (old.type is ProcType.ONESHOT and stands != old)
    )
    put = tuple(
        old for proc, old in sorted(wanted.items()) if old.type is not ProcType.ONESHOT and current.get(proc) != old
    )
    return put, delete
