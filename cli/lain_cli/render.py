"""How things look: tables and words where a person looks, plain columns in a pipe, JSON on demand. Data only; progress goes to stderr.

At a terminal a table fits its width (long cells fold, nothing is cut); in a pipe nothing is folded, coloured or cut.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

STYLES: Mapping[str, str] = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1"}
GAP = "  "


@dataclass(frozen=True, slots=True)
class Cell:
    """A text with a style out of ``STYLES``; "" is plain."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """``right``: aligned right. ``least``: characters below which it is never squeezed (a shorter text stays shorter)."""

    title: str
    right: bool = False
    least: int = 6


def columns(*titles: str | Column) -> tuple[Column, ...]:
    return tuple(title if isinstance(title, Column) else Column(title) for title in titles)


class Screen:
    """One output stream. ``width`` None: a pipe, where lines are as long as they are."""

    def __init__(self, stream: TextIO, *, width: int | None = None, colour: bool = False) -> None:
        self.stream = stream
        self.width = width
        self.colour = colour

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Screen:
        """The screen behind ``stream``: a terminal of some width (``COLUMNS`` wins), or a pipe. ``NO_COLOR`` is honoured."""
        if not stream.isatty():
            return cls(stream)
        columns = environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() and int(columns) > 0 else shutil.get_terminal_size((80, 24)).columns
        return cls(stream, width=max(width, 40), colour="NO_COLOR" not in environ and environ.get("TERM") != "dumb")

    def line(self, text: str = "", style: str = "") -> None:
        self.stream.write(self.paint(text, style) + "\n")

    def prose(self, text: str, style: str = "") -> None:
        """A sentence: folded at a terminal, further lines indented below it. Not for what is meant to be copied."""
        indent = len(text) - len(text.lstrip())
        room = None if self.width is None else max(self.width - indent - 2, 20)
        for number, part in enumerate(_fold(text.lstrip(), room)):
            self.line(" " * (indent + (2 if number else 0)) + part, style)

    def lines(self, *texts: str) -> None:
        for text in texts:
            self.line(text)

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.colour and style else text

    def fields(self, pairs: Iterable[tuple[str, str | Cell]]) -> None:
        """``name  value`` lines, names aligned; empty values are left out."""
        shown = [(name, _cell(value)) for name, value in pairs if _cell(value).text]
        left = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            room = None if self.width is None else max(self.width - left - len(GAP), 20)
            for number, part in enumerate(_fold(value.text, room)):
                label = name if number == 0 else ""
                self.line(self.paint(label.ljust(left), "dim") + GAP + self.paint(part, value.style))

    def table(self, head: Sequence[Column], rows: Sequence[Sequence[str | Cell]], *, indent: str = "") -> None:
        """A table without lines. Cells that do not fit fold onto further lines."""
        cells = [[_cell(value) for value in row] for row in rows]
        natural = [max([len(column.title), *(len(row[i].text) for row in cells)]) for i, column in enumerate(head)]
        widths = natural if self.width is None else squeeze(natural, head, self.width - len(indent))
        self._row([Cell(column.title, "dim") for column in head], head, widths, indent)
        for row in cells:
            self._row(row, head, widths, indent)

    def _row(self, row: Sequence[Cell], head: Sequence[Column], widths: Sequence[int], indent: str) -> None:
        folded = [_fold(cell.text, width) for cell, width in zip(row, widths, strict=True)]
        for number in range(max(len(parts) for parts in folded)):
            line = indent
            for position, parts in enumerate(folded):
                text = parts[number] if number < len(parts) else ""
                padded = text.rjust(widths[position]) if head[position].right else text.ljust(widths[position])
                if position == len(folded) - 1 and not head[position].right:
                    padded = text
                line += self.paint(padded, row[position].style if text else "") + (
                    GAP if position < len(folded) - 1 else ""
                )
            self.stream.write(line.rstrip() + "\n")


def squeeze(natural: Sequence[int], head: Sequence[Column], width: int) -> list[int]:
    """Widths that fit into ``width``: the widest column gives way first, none below its ``least`` (pure)."""
    widths = list(natural)
    floor = [min(wide, max(column.least, len(column.title))) for wide, column in zip(natural, head, strict=True)]
    too_much = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while too_much > 0:
        slack = [(wide - low, position) for position, (wide, low) in enumerate(zip(widths, floor, strict=True))]
        most, position = max(slack, key=lambda item: (widths[item[1]] if item[0] > 0 else -1, -item[1]))
        if most <= 0:
            break
        widths[position] -= 1
        too_much -= 1
    return widths


def _cell(value: str | Cell) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _fold(text: str, width: int | None) -> list[str]:
    """``text`` in lines of at most ``width`` characters, broken at a blank, else after ``/ , . -``, else anywhere."""
    if width is None or len(text) <= width:
        return [text]
    lines: list[str] = []
    rest = text
    while len(rest) > width:
        cut = rest.rfind(" ", 1, width + 1)
        if cut <= 0:
            cut = max(rest.rfind(mark, width // 2, width) for mark in "/,.-") + 1
        if cut <= width // 2:
            cut = width
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*lines, rest] if rest else lines


class Progress:
    """What happens, on stderr: finished lines, and at a terminal one live line below them."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._screen = Screen.of(stream, environ)
        self._live = ""

    def line(self, text: str, style: str = "") -> None:
        """A line that stays."""
        self._clear()
        self._screen.line(text, style)
        self._draw()
        self._screen.stream.flush()

    def live(self, text: str) -> None:
        """What is going on just now; shown at a terminal only."""
        if self._screen.width is None or text == self._live:
            return
        self._clear()
        self._live = text[: self._screen.width - 1]
        self._draw()
        self._screen.stream.flush()

    def end(self) -> None:
        self._clear()
        self._live = ""
        self._screen.stream.flush()

    def _clear(self) -> None:
        if self._live:
            self._screen.stream.write("\r\x1b[K")

    def _draw(self) -> None:
        if self._live:
            self._screen.stream.write(self._screen.paint(self._live, "dim"))


def size(count: int | None) -> str:
    """Bytes for people: powers of 1024, at most one decimal: ``12.3 MiB``."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            text = f"{amount:.1f}".removesuffix(".0") if unit != "B" else str(int(amount))
            return f"{text} {unit}"
        amount /= 1024
    return str(count)


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3m 5s``, ``2h 4m``, ``5d 3h``."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def ago(moment: float | None, now: float | None = None) -> str:
    """How long ago ``moment`` was; ``-`` for never."""
    if not moment:
        return "-"
    return duration((time.time() if now is None else now) - moment).replace(" s", "s")


def when(moment: float | None) -> str:
    """Local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment)) if moment else "-"


def count(number: int, noun: str) -> str:
    """``1 proc``, ``2 procs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def to_json(value: Any, *, pretty: bool) -> str:
    """``value`` (dataclasses included) as JSON text."""
    import msgspec  # noqa: PLC0415 - help pages do not pay for it

    text = msgspec.json.encode(value)
    return (msgspec.json.format(text, indent=2) if pretty else text).decode()


def stdout() -> TextIO:
    """Where data goes, looked up late so that it can be redirected."""
    return sys.stdout
