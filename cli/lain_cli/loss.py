"""A loss report for people: in a few words for a line, whole for a release. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lain_cli.render import Cell, Column, Screen, columns, duration

if TYPE_CHECKING:
    from lain_shared.model.traffic import LossReport, LossWindow


def loss_words(loss: LossReport | None) -> Cell:
    """``12,345 req, 0 lost, p99 84→91→83 ms``: requests from its begin to the minute after it; p99 before, during and after."""
    if loss is None:
        return Cell("")
    during, after = loss.during, loss.after
    since = [window for window in (during, after) if window is not None]
    lost, failed = sum(window.errors for window in since), sum(window.app_errors for window in since)
    words = [f"{sum(window.requests for window in since):,} req", f"{lost:,} lost"]
    words += [f"{failed:,} app errors"] if failed else []
    if any(window is not None and window.p99_ms is not None for window in (loss.before, during, after)):
        words.append(f"p99 {'→'.join(_ms(window) for window in (loss.before, during, after))} ms")
    words += [] if loss.complete else ["incomplete"]
    return Cell(", ".join(words), "bad" if lost else "warn" if failed else "")


def _ms(window: LossWindow | None) -> str:
    if window is None:
        return "…"
    return "-" if window.p99_ms is None else f"{window.p99_ms:.0f}"


def draw_loss(screen: Screen, loss: LossReport) -> None:
    """Its three windows, one a line."""
    rows: list[list[str | Cell]] = []
    windows = (("before", loss.before), ("during", loss.during), ("after", loss.after))
    for name, window in windows:
        if window is None:
            continue
        rows.append([
            name, duration(window.until - window.since), f"{window.requests:,}",
            Cell(f"{window.errors:,}", "bad" if window.errors else ""),
            Cell(f"{window.app_errors:,}", "warn" if window.app_errors else ""), f"{window.aborted:,}",
            "-" if window.p50_ms is None else f"{window.p50_ms:.0f} ms", "-" if window.p99_ms is None else f"{window.p99_ms:.0f} ms",
        ])  # fmt: skip
    numbers = ("FOR", "REQUESTS", "LOST", "APP ERRORS", "CLIENT LEFT", "P50", "P99")
    screen.table(columns("LOSS", *(Column(name, right=True) for name in numbers)), rows)
    if not loss.complete:
        screen.prose(f"not all of it was counted: {loss.why}", "warn")
    if not loss.final:
        screen.line("the minute after it is not over, or not told yet", "dim")
