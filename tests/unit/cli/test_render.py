"""How things look at 80 and 160 columns, and in a pipe."""

from __future__ import annotations

import re

import pytest

from lain_cli.render import Cell, Column, Progress, Screen, ago, columns, count, duration, size, squeeze
from tests.fixtures.cli import Stream

HEAD = columns("NAME", Column("COUNT", right=True), Column("NOTE", least=12))
ROWS: list[list[str | Cell]] = [
    [
        "web",
        Cell("3", "good"),
        "everything is as it should be, and this sentence is rather long so that it has to fold",
    ],
    ["a-much-longer-name-than-usual", "12", "https://registry.example.org:5000/some/very/long/path/that/has/no/blanks"],
]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def drawn(width: int | None, colour: bool = False) -> str:
    stream = Stream()
    Screen(stream, width=width, colour=colour).table(HEAD, ROWS)
    return stream.text()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_table_fits_and_loses_nothing(width: int) -> None:
    lines = drawn(width).splitlines()
    assert max(map(len, lines)) <= width
    letters = "".join(drawn(width).split())
    for row in ROWS:
        for cell in row:
            for word in (cell.text if isinstance(cell, Cell) else cell).split():
                assert word in letters or set(word) <= set(letters)
    assert sorted("".join(drawn(None).split())) == sorted(letters)


def test_in_a_pipe_a_row_is_a_line() -> None:
    assert drawn(None).splitlines() == [
        "NAME                           COUNT  NOTE",
        "web                                3  everything is as it should be, and this sentence is rather long so that it has to fold",
        "a-much-longer-name-than-usual     12  https://registry.example.org:5000/some/very/long/path/that/has/no/blanks",
    ]


def test_at_eighty_columns() -> None:
    assert drawn(80).splitlines() == [
        "NAME                           COUNT  NOTE",
        "web                                3  everything is as it should be, and this",
        "                                      sentence is rather long so that it has to",
        "                                      fold",
        "a-much-longer-name-than-usual     12  https://registry.example.org:5000/some/",
        "                                      very/long/path/that/has/no/blanks",
    ]


def test_colour_changes_no_text() -> None:
    assert plain(drawn(80, colour=True)) == drawn(80) and "\x1b[32m" in drawn(80, colour=True)


def test_a_screen_is_what_the_stream_is() -> None:
    assert Screen.of(Stream(), {"COLUMNS": "100"}).width is None
    screen = Screen.of(Stream(terminal=True), {"COLUMNS": "100"})
    assert (screen.width, screen.colour) == (100, True)
    assert not Screen.of(Stream(terminal=True), {"NO_COLOR": "1"}).colour
    assert not Screen.of(Stream(terminal=True), {"TERM": "dumb"}).colour


def test_squeezing_takes_from_the_widest_and_stops_at_the_floor() -> None:
    head = columns("A", "B")
    assert squeeze([10, 50], head, 42) == [10, 30]
    assert squeeze([10, 50], head, 1) == [6, 6]
    assert squeeze([3, 5], head, 80) == [3, 5]


def test_fields_align_and_skip_what_is_empty() -> None:
    stream = Stream()
    Screen(stream).fields([("app", "hello"), ("nothing", ""), ("longer name", Cell("x", "bad"))])
    assert stream.text() == "app          hello\nlonger name  x\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (32 * 1024**2, "32 MiB"), (3 * 1024**4, "3072 GiB"), (None, "-")],
)  # fmt: skip
def test_sizes(value: int | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0.0 s"), (0.44, "0.4 s"), (12.9, "12 s"), (185, "3m 5s"), (7440, "2h 4m"), (5 * 86400 + 3 * 3600, "5d 3h")]
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_words() -> None:
    assert ago(None) == "-" and ago(100, now=112) == "12s"
    assert count(1, "proc") == "1 proc" and count(2, "proc") == "2 procs"


def test_progress_lives_only_at_a_terminal() -> None:
    pipe, terminal = Stream(), Stream(terminal=True)
    for stream in (pipe, terminal):
        progress = Progress(stream, {"COLUMNS": "40", "NO_COLOR": "1"})
        progress.live("working on it, for quite a while, and then for longer")
        progress.line("a step")
        progress.end()
    assert pipe.text() == "a step\n"
    live = "working on it, for quite a while, and t"
    assert terminal.text() == f"{live}\r\x1b[Ka step\n{live}\r\x1b[K"
