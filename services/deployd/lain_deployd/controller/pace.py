"""What nobody waits for is written together. While many pods of a proc start, each is ready at a moment of its own, and each write of
``endpoints`` makes every router change its table and answer. Pure.

The first ready pod, the last one, and whatever a pod waits for that is to leave are written at once; so is what got worse.
"""

from __future__ import annotations

from collections.abc import Sequence

from lain_deployd.controller.actions import Action, PutEndpoints, PutStatus
from lain_deployd.controller.draft import Proc
from lain_shared.model.status import ProcPhase

GATHER_SECONDS = 0.5
"""A pod that others serve beside is routed this much later, at most."""


def can_wait(proc: Proc, changes: Sequence[Action]) -> bool:
    """Whether all that changes of ``proc`` is that some of its pods got further, and others of them are still to."""
    for change in changes:
        match change:
            case PutEndpoints():
                pass
            case PutStatus(after):
                before = proc.view.status
                if before is None or before.desired_revision != after.desired_revision:
                    return False
                if not before.phase is after.phase is ProcPhase.ROLLING or before.step is not after.step:
                    return (
                        False  # also a step of the operation is over: how long it took is told by when that is written
                    )
            case _:
                return False
    alone = all(pod.there and proc.keepers.get(pod.instance) is pod for pod in proc.pods)
    return alone and not all(pod.ready for pod in proc.pods) and _only_more(proc)


def _only_more(proc: Proc) -> bool:
    """Its endpoints stay, or pods join others that are routed already."""
    before, after = proc.view.endpoints, proc.endpoints
    if before is None or after is None:
        return before is after
    rest = (before.routes, before.port, before.proxy, before.release, before.suspect, before.draining)
    if rest != (after.routes, after.port, after.proxy, after.release, after.suspect, after.draining):
        return False
    return after.ready == before.ready or (bool(before.ready) and {*before.ready} <= {*after.ready})
