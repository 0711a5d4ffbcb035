"""How a loss report reads: in a line, whole, and as JSON."""

from __future__ import annotations

import io
import re

import pytest

from lain_cli.loss import draw_loss, loss_words
from lain_cli.render import Screen
from lain_shared.model.traffic import LossReport, LossWindow
from tests.fixtures.cli import FakeConsole, Lain
from tests.unit.cli import views
from tests.unit.cli.views import APP


def window(requests: int = 0, errors: int = 0, app_errors: int = 0, p99_ms: float | None = None) -> LossWindow:
    return LossWindow(0, 60, requests, errors, app_errors, 0, p99_ms, p99_ms)


GOOD = LossReport(
    window(9000, p99_ms=84), window(12000, p99_ms=91), window(345, p99_ms=83), final=True, routers=("r1",)
)


@pytest.mark.parametrize(
    ("loss", "words", "style"),
    [
        (None, "", ""),
        (GOOD, "12,345 req, 0 lost, p99 84→91→83 ms", ""),
        (LossReport(window(), window(7, p99_ms=2.0)), "7 req, 0 lost, p99 -→2→… ms", ""),
        (LossReport(window(), window()), "0 req, 0 lost", ""),
        (LossReport(window(), window(10, errors=2), window(3, errors=1)), "13 req, 3 lost", "bad"),
        (
            LossReport(window(), window(10, app_errors=1), window(3, app_errors=1)),
            "13 req, 0 lost, 2 app errors",
            "warn",
        ),
        (LossReport(window(), window(10), complete=False, why="r1: nginx died"), "10 req, 0 lost, incomplete", ""),
    ],
)
def test_in_a_line(loss: LossReport | None, words: str, style: str) -> None:
    cell = loss_words(loss)
    assert (cell.text, cell.style) == (words, style)


def shown(loss: LossReport) -> str:
    out = io.StringIO()
    draw_loss(Screen(out), loss)
    return out.getvalue()


def test_whole() -> None:
    lines = shown(GOOD).splitlines()
    assert [line.split()[0] for line in lines] == ["LOSS", "before", "during", "after"]
    assert "12,000" in lines[2]
    assert "91 ms" in lines[2]
    running = shown(LossReport(window(), window(1), complete=False, why="r2: has not told what it counted"))
    assert "r2: has not told what it counted" in running
    assert "not over" in running


def test_history_shows_it(here: Lain, console: FakeConsole) -> None:
    console.answers["GET", APP + "history/"] = [views.record(loss=GOOD), views.record(release=1)]
    assert "0 lost" in here("history").out
    assert "12,000" in here("history", "2").out
    assert here("history", "-o", "json").json()[0]["loss"]["during"]["requests"] == 12000
    console.answers["GET", APP + "history/"] = [views.record()]
    assert "LOSS" not in here("history").out, "nothing was told"


@pytest.mark.parametrize("width", [80, 160])
def test_history_fits_its_terminal(here: Lain, console: FakeConsole, width: int) -> None:
    lost = LossReport(
        GOOD.before, window(1_234_567, 89, 1011, 12345.0), window(9, 9, 9, 9999.0), complete=False, why="x " * 90
    )
    console.answers["GET", APP + "history/"] = [
        views.record(loss=lost),
        views.record(loss=GOOD, failure=views.failure()),
    ]
    for words in (("history",), ("history", "2")):
        lines = re.sub(r"\x1b\[[0-9;]*m", "", here(*words, width=width).out).splitlines()
        assert max(map(len, lines)) <= width, words


def test_a_deploy_says_what_it_has_cost_so_far(here: Lain, console: FakeConsole) -> None:
    """Routers tell of an operation's end a moment after it: it is asked for once more."""
    console.answers["PUT", APP] = (202, views.accepted())
    early = LossReport(GOOD.before, window(1))
    console.events("hello", [views.end(views.record(loss=early))])
    console.answers["GET", APP + "history/op1/"] = views.record(loss=GOOD)
    done = here("deploy")
    assert done.code == 0
    assert "so far     12,345 req, 0 lost, p99 84→91→83 ms" in done.out
    console.events("hello", [views.end(views.record())])
    assert "so far" not in here("deploy").out
