"""Every way a command can end badly, told in one place: what, why, evidence, next on stderr; never a stack trace.

Exit codes (stable): 0 done, 1 failed, 2 usage, 3 refused by plan, 4 rolled back, 5 busy, 6 unreachable, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, TextIO

from lain_cli.render import when
from lain_shared.errors import LainError, Refused, Unavailable


class Exit(IntEnum):
    """What a script may rely on."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    ROLLED_BACK = 4
    BUSY = 5
    UNREACHABLE = 6
    INTERRUPTED = 130


BUSY_CODES = frozenset({"busy", "operation_running", "app_busy"})


class RolledBack(LainError):
    """A release did not get ready; what ran before runs again."""

    code = "rolled_back"


class Interrupted(LainError):
    """Ctrl-C; ``message`` says what goes on without us."""

    code = "interrupted"


def exit_code(error: LainError) -> Exit:
    """The exit code of a failure, by what the caller can do about it."""
    if error.error_code in BUSY_CODES:
        return Exit.BUSY
    match error:
        case RolledBack():
            return Exit.ROLLED_BACK
        case Interrupted():
            return Exit.INTERRUPTED
        case Refused():
            return Exit.REFUSED
        case Unavailable():
            return Exit.UNREACHABLE
        case _:
            return Exit.FAILED


def tell(error: LainError, stream: TextIO, *, colour: bool = False) -> None:
    """Write a failure for a person. Lines: ``error:``, then indented ``why:``, evidence, ``next:``."""
    bold, dim, end = ("\x1b[1;31m", "\x1b[2m", "\x1b[0m") if colour else ("", "", "")
    lines = [f"{bold}error:{end} {error.message}"]
    if error.why:
        lines.extend(_indented("why: ", error.why))
    for key, value in error.evidence.items():
        if _told_already(value, error):
            continue
        moment = key.endswith("_at") and isinstance(value, int | float)
        lines.extend(_evidence(key, when(value) if moment else value, dim, end))
    if error.next:
        lines.extend(_indented("next: ", error.next))
    stream.write("\n".join(lines) + "\n")
    stream.flush()


def _indented(label: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"  {label}{first}", *(f"  {' ' * len(label)}{line}" for line in rest)]


def _evidence(key: str, value: Any, dim: str, end: str) -> list[str]:
    name = key.replace("_", " ")
    if value in (None, "", [], {}, ()):
        return []
    if isinstance(value, Mapping):
        return [f"  {name}:", *(f"    {dim}{inner}: {_plain(item)}{end}" for inner, item in value.items())]
    if isinstance(value, list | tuple):
        return [f"  {name}:", *(f"    {dim}{_plain(item)}{end}" for item in value)]
    if isinstance(value, str) and "\n" in value:
        return [f"  {name}:", *(f"    {dim}{line}{end}" for line in value.splitlines())]
    return [f"  {name}: {_plain(value)}"]


def _told_already(value: Any, error: LainError) -> bool:
    """One problem, or one line, that message or cause repeat word by word."""
    match value:
        case [{"message": str(text)}]:
            return text in error.message
        case [str(text)]:
            return text == error.why
    return False


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        if "message" in value:
            return "; ".join(str(value[name]) for name in ("message", "why") if value.get(name))
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def crash_report(error: BaseException, home: Path, argv: list[str]) -> Path | None:
    """Keep an unexpected exception in a file of mode 0600; None when even that fails. Arguments are kept without values of tokens."""
    directory = home / "crash"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(f"command: {' '.join(_without_secrets(argv))}\npython: {sys.version}\n\n")
            file.write("".join(traceback.format_exception(error)))
    except OSError:
        return None
    return path


_SECRET_OPTIONS = frozenset({"--token", "--password"})
_VALUE_OPTIONS = frozenset({"-p", "--phase", "-o", "--output", *_SECRET_OPTIONS})
"""Options with a value that may stand before the subcommand, or whose value is a secret."""
_SHOWN_WORDS = {("config", "save"): 2, ("config", "save-global"): 1, ("env", "set"): 0}
"""Commands that are given secrets → how many of their words are none."""


def _without_secrets(argv: list[str]) -> list[str]:
    """What a report may show of a command line: commands, names, options; nothing that could be a secret.

    Hidden is all that follows ``=``, what another program gets (``--``), and the values of the commands and options above. It looks at
    the words alone: a command line need not be a good one.
    """
    shown, words, option = argv[:1], list[str](), ""
    for word in argv[1:]:
        name, equals, _ = word.partition("=")
        if word == "--":
            return [*shown, word, "***"]
        if option:
            shown.append("***" if option in _SECRET_OPTIONS else word)
            option = ""
        elif word.startswith("-") and len(word) > 1:
            shown.append(f"{name}=***" if equals else word)
            option = word if word in _VALUE_OPTIONS else ""
        else:
            limit = _SHOWN_WORDS.get((words[0], words[1])) if len(words) > 1 else None
            hidden = limit is not None and len(words) >= 2 + limit
            shown.append(f"{name}=***" if equals else "***" if hidden else word)
            words.append(word)
    return shown
