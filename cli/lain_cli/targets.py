"""What words name (pure but for the manifest that lies here): ``[APP] [PROC] [N]``, so that hints can be typed as they are printed.

``web`` is a proc of this directory's app, ``web 2`` its instance, ``hello web`` a proc of another app, ``hello web 2`` an instance of it.
A single word outside of any app's directory is an app.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click

from lain_cli.context import Run
from lain_shared.errors import LainError


@dataclass(frozen=True, slots=True)
class Target:
    """``app`` None: this directory's. ``number``: an instance, or a release, or a count: the command knows."""

    app: str | None
    proc: str | None = None
    number: int | None = None


def parse_words(words: Sequence[str], app: str | None, is_app: Callable[[str], bool]) -> Target:
    """The target of ``words``. ``app``: what ``--app`` named; ``is_app`` judges a single word. Usage errors say what is wrong."""
    rest = list(words)
    number: int | None = None
    if rest and rest[-1].isdecimal() and (len(rest) > 1 or app is None):
        number = int(rest.pop())
    match rest:
        case []:
            return Target(app, None, number)
        case [one]:
            if app is None and number is None and is_app(one):
                return Target(one)
            return Target(app, one, number)
        case [named, proc]:
            if app is not None and app != named:
                raise click.UsageError(f"two apps are named: {named} and {app}")
            return Target(named, proc, number)
        case _:
            raise click.UsageError(f"too many words: {' '.join(words)}; [APP] [PROC] [N] are taken")


def read_target(run: Run, words: Sequence[str], app: str | None) -> Target:
    """``parse_words`` with this directory in view; the app is always named in the answer."""
    target = parse_words(words, app, lambda word: _names_app(run, word))
    if target.number is not None and target.number < 1:
        raise click.UsageError("instances are numbered from 1")
    return Target(run.app(target.app), target.proc, target.number)


def read_proc(run: Run, words: Sequence[str], app: str | None) -> Target:
    """As ``read_target``, where a proc must be named: a single word is always one."""
    target = parse_words(words, app, lambda _: False)
    if target.proc is None:
        raise click.UsageError("name a proc: lain ps lists them")
    return Target(run.app(target.app), target.proc, target.number)


def _names_app(run: Run, word: str) -> bool:
    """Outside of an app's directory a single word is an app; inside it is one when it is that app's name and no proc's."""
    if not run.manifest_file.is_file():
        return True
    try:
        return word == run.app(None) and word not in run.manifest.procs
    except LainError:
        return False
