"""Judging what runs: whether a proc serves, whether the operation has failed by it and why, and how long there is hope. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lain_console.operations.decision import LOOK_AGAIN_SECONDS, View
from lain_shared.model.app import Failure, OperationPhase
from lain_shared.model.pod import LIMITS_REFUSED, Desired, PodState
from lain_shared.model.status import InstanceStatus, ProcPhase, ProcStatus

CRASHES_TO_FAIL = 3
FATAL_REASONS = frozenset({"image_missing"})
"""Evidence that waiting does not heal."""


def answer(view: View, proc: str) -> ProcStatus | None:
    """What the controller says of the ``desired`` that stands now; None while it answers an older one."""
    status, stored = view.scene.status.get(proc), view.scene.desired.get(proc)
    if status is None or stored is None or status.desired_revision < stored.entry.mod_revision:
        return None
    return status


def serves(status: ProcStatus) -> bool:
    """Every wanted instance runs the wanted template and was ready for long enough, and the routers know. Old pods may still drain."""
    return status.phase is ProcPhase.STABLE


def failure_of(view: View, desired: Desired, status: ProcStatus | None) -> Failure | None:
    """Why the operation has failed by this proc; None while there is hope."""
    if status is not None:
        instance = _worst(status)
        if status.phase is ProcPhase.FAILED:
            return _failure(
                "oneshot_failed", f"{desired.proc} did not succeed{_exit_text(instance)}", desired, instance
            )
        crashed = _crashed(view, status)
        if crashed is not None:
            text = f"{desired.proc} exited {crashed.restarts} times before it was ready{_exit_text(crashed)}"
            return _failure("crashes_before_ready", text, desired, crashed)
        for each in status.instances:
            if (
                each.wanted
                and each.state is PodState.FAILED
                and each.evidence
                and each.evidence.reason in FATAL_REASONS
            ):
                text = f"{desired.proc} cannot start: {each.evidence.text or each.error or each.evidence.reason}"
                return _failure(each.evidence.reason, text, desired, each)
            if each.wanted and each.evidence and each.evidence.reason == LIMITS_REFUSED:
                failure = _failure(
                    LIMITS_REFUSED, f"{desired.proc}-{each.instance}: {each.evidence.text}", desired, each
                )
                return replace(
                    failure, next=f"ask for more than is in use: lain scale {desired.app} {desired.proc} --memory …"
                )
    if _is_late(view, desired):
        seconds = round(_deadline_seconds(view, desired))
        text = f"{desired.proc} made no progress for {seconds} s: {what_holds(status)}"
        failure = _failure("deadline", text, desired, _worst(status) if status is not None else None)
        return replace(
            failure, next=NEXT_OF_PHASE.get(status.phase, failure.next) if status is not None else "lainctl doctor"
        )
    return None


def _crashed(view: View, status: ProcStatus) -> InstanceStatus | None:
    """The wanted pod that exited most often and was never ready; on the way there not one that did so before the operation began."""
    excused = () if view.operation.phase is OperationPhase.ROLLING_BACK else view.operation.broken
    crashed = [
        each
        for each in status.instances
        if each.wanted
        and not each.ready
        and each.ready_at is None
        and each.restarts >= CRASHES_TO_FAIL
        and pod_name(status.proc, each) not in excused
    ]
    return max(crashed, key=lambda each: each.restarts, default=None)


def pod_name(proc: str, pod: InstanceStatus) -> str:
    """Names a pod within its app, as ``Operation.broken`` does."""
    return f"{proc}-{pod.instance}.g{pod.generation}"


def broken_pods(status: Mapping[str, ProcStatus]) -> tuple[str, ...]:
    """The pods that are failing now: an operation that begins now is not to blame for them."""
    return tuple(
        pod_name(proc, pod)
        for proc, told in sorted(status.items())
        for pod in told.instances
        if not pod.ready and pod.restarts
    )


NEXT_OF_PHASE: Mapping[ProcPhase, str] = {
    ProcPhase.WAITING: "lainctl node list",
    ProcPhase.PAUSED: "lainctl router list",
}
"""Where to look when it is not the app that holds."""


def explained(app: str) -> str:
    """The command that shows a failure with all its evidence."""
    return f"lain explain {app}"


def _failure(code: str, message: str, desired: Desired, instance: InstanceStatus | None) -> Failure:
    return Failure(
        code,
        message,
        proc=desired.proc,
        instance=instance.instance if instance is not None else None,
        evidence=instance.evidence if instance is not None else None,
        next=explained(desired.app),
    )


def _worst(status: ProcStatus) -> InstanceStatus | None:
    """The instance that shows best what is wrong: one that is not ready, best with evidence; else the last that ended."""
    wanted = [each for each in status.instances if each.wanted]
    unready = [each for each in wanted if not each.ready]
    if unready:
        return max(unready, key=lambda each: (each.evidence is not None, each.restarts))
    ended = [each for each in wanted if each.restarts and each.evidence is not None]
    return max(ended, key=lambda each: each.evidence.at if each.evidence is not None else 0.0, default=None)


def _exit_text(instance: InstanceStatus | None) -> str:
    if instance is None or instance.evidence is None:
        return ""
    evidence = instance.evidence
    if evidence.reason == "oom_killed":
        return " (out of memory)"
    if evidence.reason == "disk_full":
        return " (it wrote too much beside its volumes)"
    return f" (exit code {evidence.exit_code})" if evidence.exit_code is not None else f" ({evidence.reason})"


def what_holds(status: ProcStatus | None) -> str:
    """In words: what a proc that does not serve is waiting for."""
    if status is None:
        return "the controller has not answered: is deployd running?"
    if status.message:
        return status.message
    if status.phase is ProcPhase.WAITING:
        return "an instance has no node"
    if status.phase is ProcPhase.PAUSED:
        return "a router has not acknowledged"
    return f"{status.updated} of {status.wanted} instances are ready"


def _deadline_seconds(view: View, desired: Desired) -> float:
    return desired.deploy_deadline_seconds or view.operation.deadline_seconds


def _progress_at(view: View, proc: str) -> float:
    return max(view.progress.get(proc, 0.0), view.operation.phase_at, view.counts_from)


def _is_late(view: View, desired: Desired) -> bool:
    return view.now - _progress_at(view, desired.proc) >= _deadline_seconds(view, desired)


def until_late(view: View) -> float:
    """Seconds until the first deadline of a proc, ``LOOK_AGAIN_SECONDS`` at most."""
    left = [
        _progress_at(view, proc) + _deadline_seconds(view, stored.value) - view.now
        for proc, stored in view.scene.desired.items()
    ]
    return min([LOOK_AGAIN_SECONDS, *(max(seconds, 0.1) for seconds in left)])
