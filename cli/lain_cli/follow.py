"""Following an operation to its end: each step as a line, counts in a live line, and an exit that says how it ended.

Ctrl-C and a timeout end the following, never the operation.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from lain_cli.context import Run
from lain_cli.failures import Interrupted, RolledBack
from lain_cli.images import short_version
from lain_cli.render import Screen, duration
from lain_shared.errors import LainError

if TYPE_CHECKING:
    from lain_sdk.api_types import Accepted, PlanView, ProcChange
    from lain_sdk.client import Console
    from lain_shared.model.app import Failure, HistoryRecord, Step
    from lain_shared.model.status import ProcStatus


class FollowTimeout(LainError):
    """The operation was not over in time; it goes on."""

    code = "wait_timeout"


class Follower:
    """Shows one operation's progress on stderr."""

    def __init__(self, run: Run, what: str) -> None:
        self._run = run
        self._what = what
        self._started = time.monotonic()
        self._procs: dict[str, ProcStatus] = {}
        self._messages: dict[str, str] = {}

    def step(self, step: Step) -> None:
        self._run.progress.line(f"{time.strftime('%H:%M:%S', time.localtime(step.at))}  {step.text}")

    def status(self, status: ProcStatus) -> None:
        self._procs[status.proc] = status
        if status.message and self._messages.get(status.proc) != status.message:
            self._messages[status.proc] = status.message
            style = "warn" if str(status.phase) in ("failing", "failed", "paused", "waiting") else "dim"
            self._run.progress.line(f"          {status.proc}: {status.message}", style)
        self.draw()

    def draw(self) -> None:
        parts = [f"{proc.proc} {proc.updated}/{proc.wanted} {proc.phase}" for proc in self._procs.values()]
        self._run.progress.live(f"{self._what}  {duration(time.monotonic() - self._started)}  {'  '.join(parts)}")

    async def tick(self) -> None:
        while True:
            self.draw()
            await asyncio.sleep(1)


def follow(run: Run, app: str, operation_id: str, what: str, *, timeout_seconds: float | None = None) -> HistoryRecord:
    """Until the operation has ended. ``Interrupted`` and ``FollowTimeout`` say that it goes on and how to see it."""
    look = f"lain ps {run.hint}--app {app}, lain history {run.hint}--app {app}; to stop it: lain cancel {run.hint}--app {app}"

    async def body(console: Console) -> HistoryRecord:
        follower = Follower(run, what)
        ticking = asyncio.create_task(follower.tick())
        try:
            async with asyncio.timeout(timeout_seconds):
                return await console.wait(app, operation_id, on_step=follower.step, on_status=follower.status)
        finally:
            ticking.cancel()
            run.progress.end()

    try:
        return run.call(body)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped watching; the {what} of {app} continues in the cluster", next=look) from None
    except TimeoutError:
        raise FollowTimeout(
            f"the {what} of {app} is not over after {duration(timeout_seconds or 0)}; it continues in the cluster",
            next=look,
        ) from None


def judge(run: Run, record: HistoryRecord) -> None:
    """Raise when an operation did not end as asked: ``RolledBack`` when what ran before runs again."""
    outcome = str(record.outcome)
    if outcome == "succeeded":
        return
    failure = record.failure
    evidence = failure_evidence(failure)
    next = (failure.next if failure else "") or f"lain explain {run.hint}--app {record.app}"
    why = failure.message if failure else ""
    if failure is not None and failure.proc:
        where = failure.proc + (f"-{failure.instance}" if failure.instance is not None else "")
        why = f"{where}: {why}" if where not in why else why
    match outcome:
        case "rolled_back":
            back = f"release {record.parent} serves" if record.parent else "nothing runs"
            raise RolledBack(
                f"the {record.kind} of {record.app} was rolled back; {back}", why=why, evidence=evidence, next=next
            )
        case "cancelled":
            back = f"release {record.parent} serves" if record.parent else "nothing runs"
            raise RolledBack(
                f"the {record.kind} of {record.app} was cancelled; {back}", why=why, evidence=evidence, code="cancelled"
            )
        case "replaced":
            raise LainError(
                f"the {record.kind} of {record.app} was replaced by another operation", why=why,
                next=f"lain history {run.hint}--app {record.app}", code="replaced",
            )  # fmt: skip
        case _:
            raise LainError(
                f"the {record.kind} of {record.app} failed",
                why=why,
                evidence=evidence,
                next=next,
                code="operation_failed",
            )


def failure_evidence(failure: Failure | None) -> dict[str, Any]:
    """What was seen, for a person."""
    if failure is None or failure.evidence is None:
        return {}
    seen = failure.evidence
    found: dict[str, Any] = {"reason": seen.reason}
    if seen.exit_code is not None:
        found["exit_code"] = seen.exit_code
    if seen.probe:
        found["probe"] = seen.probe
    if seen.text:
        found["seen"] = seen.text
    if seen.last_lines:
        found["last lines"] = list(seen.last_lines)
    return found


def conclude(
    run: Run, app: str, accepted: Accepted, what: str, *, detach: bool, timeout_seconds: float | None = None
) -> None:
    """Follow an accepted change and show its end; with ``detach`` show that it was accepted."""
    operation = accepted.operation
    if operation is None:
        run.show(accepted, lambda screen: screen.line(f"{app}: nothing has to be done", "good"))
        return
    if detach:
        text = f"accepted: {what} of {app} (operation {operation.id}); lain ps {run.hint}--app {app}"
        run.show(accepted, lambda screen: screen.line(text))
        return
    record = follow(run, app, operation.id, what, timeout_seconds=timeout_seconds)
    judge(run, record)

    def pretty(screen: Screen) -> None:
        took = duration(record.ended_at - record.started_at)
        version = f" ({short_version(record.meta_version)})" if record.meta_version else ""
        release = f", release {record.release}{version}" if record.release else ""
        screen.line(f"Done: {what} of {app}{release} in {took}", "good")

    run.show(record, pretty)


# --- plans ------------------------------------------------------------------------------------------------------------

_MARKS = {
    "add": ("+", "good"),
    "change": ("~", "warn"),
    "remove": ("-", "bad"),
    "keep": ("=", "dim"),
    "run": (">", "warn"),
}


def draw_plan(screen: Screen, plan: PlanView) -> None:
    """What an operation would do, and whether it may."""
    old = f"release {plan.parent} ({short_version(plan.parent_meta_version)})" if plan.parent else "nothing"
    new = f"release {plan.release} ({short_version(plan.meta_version)})" if plan.release else "nothing"
    screen.prose(f"{plan.kind} of {plan.app}: {old} → {new}", "bold")
    for change in plan.changes:
        _draw_change(screen, change)
    for route in plan.routes_added:
        screen.prose(f"  + route {route}", "good")
    for route in plan.routes_removed:
        screen.prose(f"  - route {route}", "bad")
    for warning in plan.warnings:
        screen.prose(f"warning: {warning.message}", "warn")
        if warning.why:
            screen.prose(f"  why: {warning.why}")
    for refusal in plan.refusals:
        screen.prose(f"refused: {refusal.message}", "bad")
        if refusal.why:
            screen.prose(f"  why: {refusal.why}")
        if refusal.next:
            screen.line(f"  next: {refusal.next}")
    verdicts = {"go": ("verdict: it can start", "good"), "refused": ("verdict: refused", "bad")}
    screen.prose(*verdicts.get(str(plan.verdict), ("verdict: nothing would change", "dim")))


def _draw_change(screen: Screen, change: ProcChange) -> None:
    mark, style = _MARKS.get(str(change.action), ("?", ""))
    words = {"keep": "stays as it is", "add": "new", "remove": "removed", "run": "runs once", "change": "changes"}
    text = f"  {mark} {change.proc} ({change.type}): {words.get(str(change.action), str(change.action))}"
    screen.prose(text + (", in place" if change.in_place else ""), style)
    for one in change.changes:
        screen.prose(f"      {one.field}: {one.old or '-'} → {one.new or '-'}")
