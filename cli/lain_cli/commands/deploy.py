"""Moving an app from one release to another: deploy, roll back, cancel, undeploy."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from lain_cli import failures
from lain_cli.commands.apps import by_reach, curl_line, url_of
from lain_cli.context import Run
from lain_cli.follow import conclude, draw_plan, follow, judge
from lain_cli.images import short_version
from lain_cli.loss import loss_words
from lain_cli.options import app_argument, app_option, command
from lain_cli.render import Screen, duration
from lain_shared.errors import Invalid, NotFound

if TYPE_CHECKING:
    from lain_sdk.api_types import AppView, VersionView
    from lain_shared.model.app import HistoryRecord

DETACH = click.option("-d", "--detach", is_flag=True, help="Return once it is accepted.")
TIMEOUT = click.option(
    "--timeout", metavar="SECONDS", type=click.FloatRange(min=0, min_open=True), help="Stop watching after so long."
)


WHOLE_VERSION = re.compile(r"[0-9]+-[0-9a-f]{40}\Z")
"""A commit in full: it can be no other version's beginning."""


@command("deploy", examples=("lain deploy", "lain deploy --plan", "lain deploy -p prod --version 1500000000-0123abc"))
@app_argument
@click.option("-v", "--version", metavar="VERSION", help="Version to deploy, or its beginning (default: the newest).")
@click.option("--proc", metavar="PROC", help="Only this proc.")
@click.option("--plan", "only_plan", is_flag=True, help="Show what would happen; change nothing.")
@click.option("--replace", is_flag=True, help="Take over from a deploy that is running.")
@DETACH
@TIMEOUT
def deploy(
    run: Run, *, app: str | None, version: str | None, proc: str | None, only_plan: bool, replace: bool, detach: bool,
    timeout: float | None,
) -> int:  # fmt: skip
    """Deploy a version: first plan, then new instances beside the old, then the old ones drained.

    Exit codes: 0 done, 3 refused by plan, 4 rolled back, 5 busy, 6 unreachable, 130 interrupted (the deploy goes on).
    """
    name = run.app(app)
    wanted = resolve_version(run, name, version) if version else None
    if only_plan:
        return _plan(run, name, wanted, proc, replace)
    deploy_app(run, name, wanted, proc=proc, replace=replace, detach=detach, timeout=timeout)
    return failures.Exit.DONE


def _plan(run: Run, app: str, version: str | None, proc: str | None, replace: bool) -> int:
    view = run.call(lambda console: console.plan(app, version, proc=proc, replace=replace))
    run.show(view, lambda screen: draw_plan(screen, view))
    return failures.Exit.REFUSED if str(view.verdict) == "refused" else failures.Exit.DONE


def deploy_app(
    run: Run,
    app: str,
    version: str | None,
    *,
    proc: str | None = None,
    replace: bool = False,
    detach: bool = False,
    timeout: float | None = None,
) -> None:
    """Deploy and follow; shows last and this version, the address, and how to go back."""
    try:
        accepted = run.call(lambda console: console.deploy(app, version, proc=proc, replace=replace))
    except NotFound as error:
        if error.error_code == "app_not_found" and not error.next:
            error.next = f"lain reposit {run.hint}--app {app}"
        raise
    plan = accepted.plan
    if plan is not None and run.output == "pretty":
        for warning in plan.warnings:
            run.progress.line(f"warning: {warning.message}", "warn")
    if accepted.operation is None or detach:
        conclude(run, app, accepted, "deploy", detach=detach)
        return
    operation = accepted.operation
    record = follow(run, app, operation.id, "deploy", timeout_seconds=timeout)
    judge(run, record)
    last = plan.parent_meta_version if plan is not None else ""
    view = run.call(lambda console: console.app(app))
    if record.loss is not None and record.loss.after is None:  # routers tell of its end a moment later
        record = run.call(lambda console: console.history_record(app, operation.id))
    document = {"app": app, "last": last, "this": record.meta_version, "operation": record, "urls": _urls(run, view)}
    run.show(document, lambda screen: _draw_done(run, screen, record, view, last))


def _draw_done(run: Run, screen: Screen, record: HistoryRecord, view: AppView, last: str) -> None:
    took = duration(record.ended_at - record.started_at)
    screen.line(f"Done in {took}: {record.app} is at release {record.release}", "good")
    screen.fields([
        ("last", last or "-"),
        ("this", record.meta_version),
        ("so far", loss_words(record.loss) if record.loss is not None and record.loss.during.requests else ""),
        *[("url", url) for url in _urls(run, view)[:3]],
        *[("try", curl_line(run, route.host, route.path, https=route.https_only)) for route in by_reach(view.routes, run.phase.domain)[:1]],
        ("roll back", f"lain rollback {run.hint}--app {record.app} {record.parent}  ({last})" if record.parent else ""),
    ])  # fmt: skip


def _urls(run: Run, view: AppView) -> list[str]:
    routes = by_reach(view.routes, run.phase.domain)
    return [url_of(run, route.host, route.path, https=route.https_only) for route in routes]


def resolve_version(run: Run, app: str, text: str) -> str:
    """The version that ``text`` names: whole (the console says whether it is there), else the one deployable with such a beginning."""
    if WHOLE_VERSION.match(text):
        return text
    known = [one for one in run.call(lambda console: console.versions(app)).versions if one.deployable]
    return match_version(text, known, app)


def match_version(text: str, known: Sequence[VersionView], app: str) -> str:
    """``resolve_version`` without a cluster (pure). ``NotFound`` lists what there is."""
    names = [one.meta_version for one in known]
    if text in names:
        return text
    near = [name for name in names if name.startswith(text) or name.partition("-")[2].startswith(text)]
    if len(near) == 1:
        return near[0]
    raise NotFound(
        f"{text} {'may be several versions' if near else 'is no version'} of {app} in the registry",
        evidence={"versions": near or names[:20]}, next="lain push uploads this commit's" if not near else "say more of it",
        code="version_not_found",
    )  # fmt: skip


@command("rollback", examples=("lain rollback", "lain rollback 3", "lain rollback hello 3"))
@click.argument("words", nargs=-1, metavar="[APP] [RELEASE]")
@app_option
@click.option("-l", "--list", "only_list", is_flag=True, help="Show the releases that can run again.")
@DETACH
@TIMEOUT
def rollback(
    run: Run, *, words: tuple[str, ...], app: str | None, only_list: bool, detach: bool, timeout: float | None
) -> None:
    """Go back to an earlier release (default: the one before the current). It becomes a new release."""
    named, release = split_release(words)
    name = run.app(app or named)
    if only_list:
        _list_releases(run, name)
        return
    accepted = run.call(lambda console: console.rollback(name, release))
    conclude(run, name, accepted, "rollback", detach=detach, timeout_seconds=timeout)


def split_release(words: tuple[str, ...]) -> tuple[str | None, int | None]:
    """``hello 3`` → (hello, 3); each may be absent (pure)."""
    match words:
        case ():
            return None, None
        case (number,) if number.isdecimal():
            return None, int(number)
        case (app,):
            return app, None
        case (app, number) if number.isdecimal():
            return app, int(number)
        case _:
            raise click.UsageError("[APP] [RELEASE] are taken; a release is a number: lain rollback --list")


def _list_releases(run: Run, app: str) -> None:
    from lain_cli.render import Cell, Column, columns, when  # noqa: PLC0415

    views = run.call(lambda console: console.releases(app))

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = []
        for one in views:
            notes = ["current"] if one.current else []
            notes += [f"rollback of {one.rollback_of}"] if one.rollback_of else []
            notes += [one.note] if one.note else []
            note = Cell(", ".join(notes), "good" if one.current else "")
            rows.append([str(one.number), short_version(one.meta_version), when(one.created_at), one.who, note])
        screen.table(columns(Column("REL", right=True), "VERSION", "MADE", "WHO", "NOTE"), rows)

    run.show(views, pretty)


@command("cancel", examples=("lain cancel", "lain cancel --app hello --detach"))
@app_argument
@DETACH
def cancel(run: Run, app: str | None, detach: bool) -> None:
    """Stop the running operation and go back to where it came from."""
    name = run.app(app)
    operation = run.call(lambda console: console.cancel(name))
    if detach:
        run.show(operation, lambda screen: screen.line(f"cancel of {operation.kind} accepted"))
        return
    record = follow(run, name, operation.id, "cancel")
    if str(record.outcome) not in ("cancelled", "rolled_back"):
        judge(run, record)

    def pretty(screen: Screen) -> None:
        back = f"release {record.parent} serves" if record.parent else "nothing runs"
        screen.line(f"Done: the {record.kind} of {name} was {str(record.outcome).replace('_', ' ')}; {back}", "good")

    run.show(record, pretty)


@command("undeploy", examples=("lain undeploy", "lain undeploy --app hello --yes", "lain undeploy --delete-volumes"))
@app_argument
@click.option("-y", "--yes", is_flag=True, help="Do not ask (the name is asked for all the same).")
@click.option("--delete-volumes", is_flag=True, help="Delete its volumes too, for ever; asks for the app's name.")
@DETACH
@TIMEOUT
def undeploy(
    run: Run, *, app: str | None, yes: bool, delete_volumes: bool, detach: bool, timeout: float | None
) -> None:
    """Stop the app. Its name, history, releases and volumes stay; with --delete-volumes the volumes go, once the app has ended."""
    name = run.app(app)
    if delete_volumes:
        typed = click.prompt(f"the volumes of {name} in {run.phase.name} will be deleted for ever; its name", err=True)
        if typed != name:
            raise Invalid(
                f"{typed!r} is not {name!r}: nothing was done",
                why="--delete-volumes asks for the app's name, because what is deleted does not come back",
                next="type the name exactly",
                code="not_confirmed",
            )
    elif not yes and sys.stdin.isatty():
        click.confirm(f"stop {name} in {run.phase.name}?", abort=True, err=True)
    accepted = run.call(lambda console: console.undeploy(name, delete_volumes=delete_volumes))
    conclude(run, name, accepted, "undeploy", detach=detach, timeout_seconds=timeout)
    if accepted.volumes and run.output == "pretty":
        run.progress.line("volumes that are being deleted:" if delete_volumes else "volumes that stay:")
        for volume in accepted.volumes:
            run.progress.line(f"  {volume.name} on {volume.node}")
