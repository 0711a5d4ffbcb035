"""What a rollout waits for, and for how long it did: pure. One step at a time, so that the seconds of all steps add up to the whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lain_deployd.controller.draft import Pod, Proc
from lain_shared.model.pod import PodState
from lain_shared.model.status import DeployStep, ProcPhase, ProcStatus

IMAGE_REASONS = frozenset({"image_missing", "registry_unreachable"})
_ORDER = (DeployStep.PULL, DeployStep.START, DeployStep.ONESHOT, DeployStep.READY)
"""The way of a new pod: of several, the one that is furthest behind is waited for."""


def waits_for(proc: Proc, phase: ProcPhase, unfinished: Collection[Pod]) -> DeployStep | None:
    """The step that ``proc`` is in. ``unfinished``: pods that are to stay and are not yet what is wanted."""
    if phase in (ProcPhase.STABLE, ProcPhase.DONE, ProcPhase.FAILED):
        return None
    if proc.fault or proc.no_node or proc.held:
        return DeployStep.PLAN
    if unfinished:
        return min((_step_of(proc, pod) for pod in unfinished), key=_ORDER.index)
    if all(instance in proc.keepers for instance in proc.wanted):
        return DeployStep.ROUTE
    leaving = [pod for pod in proc.pods if pod.runs and not pod.active and not pod.lost]
    if not leaving:
        return DeployStep.STOP
    told = all(pod.slot in proc.was_draining for pod in leaving)
    return DeployStep.DRAIN if told and not proc.behind else DeployStep.ROUTE


def _step_of(proc: Proc, pod: Pod) -> DeployStep:
    if pod.seen is None:
        return DeployStep.START
    reason = pod.seen.evidence.reason if pod.seen.evidence is not None else ""
    match pod.seen.state:
        case PodState.PULLING:
            return DeployStep.PULL
        case PodState.FAILED:
            return DeployStep.PULL if reason in IMAGE_REASONS else DeployStep.START
        case PodState.RUNNING if proc.oneshot:
            return DeployStep.ONESHOT
        case PodState.RUNNING if proc.done(pod):
            return DeployStep.START  # its limits are being changed
        case PodState.RUNNING | PodState.BACKOFF | PodState.EXITED:
            return DeployStep.ONESHOT if proc.oneshot else DeployStep.READY
        case _:
            return DeployStep.START


def spent(
    before: ProcStatus | None, desired_revision: int, step: DeployStep | None, now: float
) -> tuple[float, Mapping[str, float]]:
    """Since when ``step`` is waited for, and the seconds of the steps that ended before it. ``before``: the status as it stands."""
    if before is None or before.desired_revision != desired_revision:
        return now, {}
    if before.step == step:
        return before.step_at, before.step_seconds
    if before.step is None:
        return now, before.step_seconds
    seconds = before.step_seconds.get(before.step, 0.0) + max(0.0, now - before.step_at)
    return now, {**before.step_seconds, before.step: round(seconds, 4)}
