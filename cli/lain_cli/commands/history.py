"""What was done to an app: a line for each operation, or all that is known of a release: steps, where the time went, what was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lain_cli.commands.apps import styled, without_empty
from lain_cli.commands.deploy import split_release
from lain_cli.context import Run
from lain_cli.follow import failure_evidence
from lain_cli.images import short_version
from lain_cli.loss import draw_loss, loss_words
from lain_cli.options import app_option, command
from lain_cli.render import Cell, Column, Screen, columns, duration, when
from lain_shared.errors import NotFound

if TYPE_CHECKING:
    from lain_shared.model.app import HistoryRecord

STEP_TEXTS = {
    "plan": "judging, deciding, settling",
    "oneshot": "its oneshots ran",
    "pull": "a node brought the image",
    "start": "containers were made and started",
    "ready": "they ran and were not ready yet",
    "route": "routers had yet to apply it",
    "drain": "old instances ended their requests",
    "stop": "old instances had to be gone first",
}
"""In the order in which they happen."""


@command("history", examples=("lain history", "lain history --app hello -n 5", "lain history hello 7"))
@click.argument("words", nargs=-1, metavar="[APP] [RELEASE]")
@app_option
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="Operations to show.")
def history(run: Run, *, words: tuple[str, ...], app: str | None, number: int) -> None:
    """What was done to the app, by whom, and how it ended; newest first. With a release: all that is known of it."""
    named, release = split_release(words)
    name = run.app(app or named)
    records = run.call(lambda console: console.history(name))
    if release is None:
        run.show(records[:number], lambda screen: _draw(screen, name, records[:number]))
        return
    of_release = [record for record in records if record.release == release]
    if not of_release:
        known = sorted({record.release for record in records if record.release}, reverse=True)
        raise NotFound(
            f"nothing is known of release {release} of {name}", why="the last 50 operations are kept",
            evidence={"releases": known[:20]}, next=f"lain history {run.hint}--app {name}", code="release_not_found",
        )  # fmt: skip
    run.show(of_release, lambda screen: _draw_release(screen, of_release))


def _draw(screen: Screen, app: str, records: tuple[HistoryRecord, ...]) -> None:
    if not records:
        screen.line(f"nothing was done to {app} yet")
        return
    head = columns(
        "WHEN",
        "WHAT",
        Column("REL", right=True),
        "VERSION",
        "OUTCOME",
        "TOOK",
        "WHO",
        Column("LOSS", least=10),
        Column("NOTE", least=16),
    )
    rows: list[list[str | Cell]] = [_row(record) for record in records]
    screen.table(*without_empty(head, rows))


def _row(record: HistoryRecord) -> list[str | Cell]:
    note = record.failure.message if record.failure else ""
    took = duration(record.ended_at - record.started_at)
    return [
        when(record.started_at), str(record.kind), str(record.release or "-"), short_version(record.meta_version),
        styled(str(record.outcome)), took, record.who, loss_words(record.loss), note,
    ]  # fmt: skip


def _draw_release(screen: Screen, records: list[HistoryRecord]) -> None:
    for number, record in enumerate(records):
        if number:
            screen.line()
        draw_record(screen, record)


def draw_record(screen: Screen, record: HistoryRecord) -> None:
    """One ended operation, whole."""
    back = f"release {record.parent}" if record.parent else ""
    screen.fields([
        ("what", f"{record.kind} of {record.app}"), ("release", str(record.release or "")),
        ("version", record.meta_version), ("from", back), ("when", when(record.started_at)), ("who", record.who),
        ("outcome", styled(str(record.outcome))), ("took", duration(record.ended_at - record.started_at)),
        ("operation", record.id),
    ])  # fmt: skip
    if record.failure is not None:
        screen.prose(record.failure.message, "bad")
        for name, seen in failure_evidence(record.failure).items():
            for line in seen if isinstance(seen, list) else [f"{name}: {seen}"]:
                screen.line(f"    {line}", "dim")
    if record.steps:
        screen.line()
        for step in record.steps:
            screen.prose(f"{when(step.at).partition(' ')[2]}  {step.text}")
    if any(record.step_seconds.values()):
        screen.line()
        _draw_budget(screen, record)
    if record.loss is not None:
        screen.line()
        draw_loss(screen, record.loss)


def _draw_budget(screen: Screen, record: HistoryRecord) -> None:
    waited = sum(record.step_seconds.values())
    known = {name: record.step_seconds[name] for name in STEP_TEXTS if name in record.step_seconds}
    rows: list[list[str | Cell]] = [
        [name, f"{seconds:.2f}", f"{100 * seconds / waited:.0f} %", STEP_TEXTS.get(name, "")]
        for name, seconds in {**known, **record.step_seconds}.items()
        if seconds
    ]
    rows.append(["waited", f"{waited:.2f}", "", "from the request to the end"])
    head = columns(
        "STEP", Column("SECONDS", right=True), Column("SHARE", right=True), Column("WHERE THE TIME WENT", least=16)
    )
    screen.table(head, rows)
