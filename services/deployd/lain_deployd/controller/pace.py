"""What nobody waits for is written together. While many pods of a proc start, each is ready at a moment of its own, and while many stop,
each is gone at one; and each write of ``endpoints`` makes every router change its table and answer. Pure.

The first ready pod and the last one, the last that is gone, whatever another pod waits for, and what got worse are written at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from lain_deployd.controller.actions import Action, DropAssignment, PutEndpoints, PutStatus
from lain_deployd.controller.draft import Proc
from lain_shared.model.status import ProcPhase

GATHER_SECONDS = 0.5
"""A pod that others serve beside is routed this much later, at most."""


def can_wait(proc: Proc, changes: Sequence[Action]) -> bool:
    """Whether all that changes of ``proc`` is that some of its pods are ready, or gone, and more of them will be."""
    for change in changes:
        match change:
            case PutEndpoints():
                pass
            case DropAssignment():
                if proc.cluster.room_wanted:
                    return False
            case PutStatus(after):
                before = proc.view.status
                if before is None or before.desired_revision != after.desired_revision:
                    return False
                rolls_on = before.phase is after.phase is ProcPhase.ROLLING
                if not rolls_on or before.step is not after.step:  # when a step ended is told by when that is written
                    return False
            case _:
                return False
    there = [pod for pod in proc.pods if pod.there]
    if any(pod.runs and proc.keepers.get(pod.instance) is not pod for pod in there):
        return False
    return any(not pod.ready or not pod.runs for pod in there) and _only_more_or_gone(proc)


def _only_more_or_gone(proc: Proc) -> bool:
    """Of its endpoints, some join others that are routed already; some that were draining are no more; the rest stays."""
    before, after = proc.view.endpoints, proc.endpoints
    if before is None or after is None:
        return before is after
    if (before.routes, before.port, before.proxy, before.suspect) != (
        after.routes,
        after.port,
        after.proxy,
        after.suspect,
    ):
        return False
    if not {*after.draining} <= {*before.draining}:
        return False
    return after.ready == before.ready or (bool(before.ready) and {*before.ready} <= {*after.ready})
