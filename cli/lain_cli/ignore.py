"""``.dockerignore`` rules (pure): which paths stay out of a build, by Docker's own pattern rules.

One pattern a line; ``#`` comments; a leading ``!`` takes back in; the last matching line decides; ``**`` spans directories; a pattern
that matches a directory matches all below it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable


def matcher(lines: Iterable[str]) -> Callable[[str], bool]:
    """A predicate over ``/``-separated relative paths: is this path ignored?"""
    rules: list[tuple[bool, re.Pattern[str]]] = []
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        back_in = text.startswith("!")
        cleaned = posixpath.normpath(text.removeprefix("!").strip()).lstrip("/")
        if cleaned not in ("", "."):
            rules.append((back_in, re.compile(_regex(cleaned))))

    def ignored(path: str) -> bool:
        verdict = False
        parents = path.split("/")
        prefixes = ["/".join(parents[:length]) for length in range(1, len(parents) + 1)]
        for back_in, rule in rules:
            if verdict == back_in and any(rule.match(prefix) for prefix in prefixes):
                verdict = not back_in
        return verdict

    return ignored


def _regex(pattern: str) -> str:
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if pattern.startswith("**/", position):
            out.append("(?:.*/)?")
            position += 3
            continue
        if pattern.startswith("**", position):
            out.append(".*")
            position += 2
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", position + 2)) > 0:
            body = pattern[position + 1 : end].replace("\\", "\\\\")
            out.append(f"[{body}]")
            position = end + 1
            continue
        elif char == "\\" and position + 1 < len(pattern):
            position += 1
            out.append(re.escape(pattern[position]))
        else:
            out.append(re.escape(char))
        position += 1
    return "".join(out) + r"\Z"
