"""Where an operation's time goes: pure. Every second from the request to the end belongs to one step, so that they add up to the wait.

The console measures whole phases by its own clock; what a phase was spent on is told by the controller, which measures each proc's steps by
its own (``ProcStatus.step_seconds``): durations, so that two clocks need not agree. Procs roll out side by side, so the one that was last
speaks for the phase. What it does not account for is the console's own part: ``plan``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lain_shared.model.app import Operation, OperationPhase
from lain_shared.model.status import DeployStep, ProcStatus


def after_phase(operation: Operation, now: float, statuses: Iterable[ProcStatus]) -> Mapping[str, float]:
    """``Operation.step_seconds`` when the phase ends now. ``statuses``: of the procs that this phase was about."""
    elapsed = max(0.0, now - operation.phase_at)
    spent = dict(operation.step_seconds)
    for step, seconds in _of_phase(operation.phase, elapsed, statuses).items():
        spent[step] = round(spent.get(step, 0.0) + seconds, 4)
    return spent


def _of_phase(phase: OperationPhase, elapsed: float, statuses: Iterable[ProcStatus]) -> dict[str, float]:
    if phase in (OperationPhase.RELEASING, OperationPhase.REMOVING):
        return {DeployStep.ROUTE.value: elapsed}  # routers let go of what is given back
    last = max(statuses, key=lambda status: (status.step is not None, status.step_at), default=None)
    if last is None:
        return {DeployStep.PLAN.value: elapsed}
    told = dict(last.step_seconds)
    whole = sum(told.values())
    if whole > elapsed:  # it counts from before this phase, or its clock runs faster
        return {step: seconds * elapsed / whole for step, seconds in told.items()}
    rest = (last.step or DeployStep.PLAN).value
    told[rest] = told.get(rest, 0.0) + elapsed - whole
    return told
