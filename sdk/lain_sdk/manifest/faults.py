"""What is wrong with a manifest, told all at once: one ``Fault`` a mistake, each with its place, what was found, and the way out.

CLI, console and editors show the same objects; nothing here knows how a manifest is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lain_shared.errors import Invalid

MAX_FAULTS = 200
"""More than anybody reads. What comes after is counted, not kept, so that a hostile document costs little."""
_MAX_GUESSES = 60
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")

Path = tuple[str | int, ...]


def show_path(path: Path) -> str:
    """``web.env[2]``, ``web.ports["9506:22"]``: a key path as people write it; the whole document is ``(document)``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.match(part):
            text += f".{part}" if text else part
        else:
            text += f'["{shorten(part)}"]'
    return text or "(document)"


def shorten(text: str, most: int = 60) -> str:
    """``text`` on one printable line of at most ``most`` characters."""
    line = "".join(char if char.isprintable() else "�" for char in text[: most + 1].replace("\n", "⏎"))
    return line if len(text) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, slots=True)
class Fault:
    """One mistake. ``line`` and ``column`` count from 1; 0 means that the place is not known (a rule about the whole document)."""

    file: str
    line: int
    column: int
    path: str
    code: str
    """One of ``CODES``; stable."""
    message: str
    """What is wrong, in one sentence, without the place."""
    found: str = ""
    allowed: str = ""
    nearest: str = ""
    """The known key that was probably meant; empty when none is near."""
    fix: str = ""
    """What to write instead; empty when ``allowed`` says it all."""

    CODES: ClassVar[tuple[str, ...]] = (
        "yaml", "too_big", "unknown_key", "duplicate_key", "missing_key", "wrong_type", "bad_value", "ambiguous", "conflict", "template",
    )  # fmt: skip

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        parts = [f"{place}: {self.path}: {self.message}"]
        if self.found:
            parts.append(f"found {self.found}")
        if self.allowed and not (self.nearest and self.code == "unknown_key"):
            parts.append(f"allowed: {self.allowed}")
        if self.nearest:
            parts.append(f"did you mean {self.nearest!r}?")
        if self.fix:
            parts.append(self.fix)
        return "; ".join(parts)

    def to_document(self) -> dict[str, Any]:
        """The JSON form that ``lain validate --output json`` and the console's error body carry."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "CODES"}


@dataclass(slots=True)
class Faults:
    """Collects faults while a manifest is read. It is handed down, filled, and read once at the end."""

    file: str
    _kept: list[Fault] = field(default_factory=list)
    _dropped: int = 0
    _guesses: int = 0

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._kept)

    def add(
        self,
        line: int,
        column: int,
        path: Path,
        code: str,
        message: str,
        *,
        found: str = "",
        allowed: str = "",
        nearest: str = "",
        fix: str = "",
    ) -> None:
        if len(self._kept) >= MAX_FAULTS:
            self._dropped += 1
            return
        self._kept.append(Fault(self.file, line, column, show_path(path), code, message, found, allowed, nearest, fix))

    def nearest(self, word: str, known: Iterable[str]) -> str:
        """The known word that ``word`` probably meant, or ""; only the first mistakes get a guess, since each costs time."""
        self._guesses += 1
        if self._guesses > _MAX_GUESSES or len(word) > 64:
            return ""
        candidates = list(known)
        flat = {candidate.replace("_", ""): candidate for candidate in candidates}
        plain = word.lower().replace("-", "_").replace("_", "")
        if plain in flat:
            return flat[plain]
        found = difflib.get_close_matches(word.lower().replace("-", "_"), candidates, n=1, cutoff=0.65)
        return found[0] if found else ""

    def raise_if_any(self) -> None:
        """Raise ``ManifestInvalid`` with everything found so far, in the order of the text."""
        if not self._kept:
            return
        kept = sorted(self._kept, key=lambda fault: (fault.line, fault.column))
        raise ManifestInvalid(self.file, kept, dropped=self._dropped)


class ManifestInvalid(Invalid):
    """A manifest has faults. ``faults`` holds each of them, in the order of the text."""

    code = "manifest_invalid"

    def __init__(self, file: str, faults: Iterable[Fault], *, dropped: int = 0) -> None:
        self.faults = tuple(faults)
        count = len(self.faults) + dropped
        more = f" (the first {len(self.faults)} are listed)" if dropped else ""
        super().__init__(
            f"{file} has {count} fault{'' if count == 1 else 's'}{more}",
            why="\n".join(str(fault) for fault in self.faults),
            next="correct them and run: lain validate",
            evidence={"faults": [fault.to_document() for fault in self.faults]},
        )
