"""What the command line asks of git: which version this work tree is, and which of its files belong to it.

Read only: ``GIT_OPTIONAL_LOCKS=0`` keeps even the index as it was.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lain_shared.errors import Invalid, LainError

DIRTY = "-dirty"


@dataclass(frozen=True, slots=True)
class WorkTree:
    """The state of a work tree: ``version`` is ``<commit unix time>-<40-hex sha>`` of HEAD, None without a commit.

    ``changed``: paths below the app's directory that differ from HEAD, untracked ones included.
    """

    directory: Path
    version: str | None
    changed: tuple[str, ...] = ()

    @property
    def dirty(self) -> bool:
        return bool(self.changed)


def inspect(directory: Path) -> WorkTree:
    """Look at the work tree ``directory`` lies in. ``Invalid`` when it is no git repository, ``LainError`` when git is missing."""
    inside = _git(directory, "rev-parse", "--is-inside-work-tree")
    if inside.returncode != 0 or inside.stdout.strip() != b"true":
        raise Invalid(
            f"{directory} is not in a git work tree",
            why="an app's version is its newest commit",
            next="git init && git add -A && git commit -m 'first version'",
            code="no_repository",
        )
    shown = _git(directory, "log", "-1", "--no-show-signature", "--format=%ct-%H", "HEAD", "--")
    version = shown.stdout.decode().strip() if shown.returncode == 0 else ""
    status = _git(directory, "status", "--porcelain=v1", "-z", "--untracked-files=normal", "--", ".")
    if status.returncode != 0:
        raise LainError("git status failed", why=status.stderr.decode(errors="replace").strip(), code="git_failed")
    return WorkTree(directory, version or None, _changed(status.stdout))


def require_version(tree: WorkTree) -> str:
    """The version of the commit, whatever the work tree holds beside it; ``Invalid`` asks for a commit."""
    if tree.version is None:
        raise Invalid(
            "the repository has no commit",
            why="an app's version is its newest commit",
            next="git add -A && git commit -m 'first version'",
            code="no_commit",
        )
    return tree.version


def build_version(tree: WorkTree, *, allow_dirty: bool) -> str | None:
    """The version images of this work tree are tagged with.

    A dirty tree is refused, or with ``allow_dirty`` marked ``-dirty`` (such images stay local). None: no commit, and allowed.
    """
    if tree.version is None:
        if allow_dirty:
            return None
        return require_version(tree)
    if not tree.dirty:
        return tree.version
    if not allow_dirty:
        shown = list(tree.changed[:10])
        raise Invalid(
            f"the work tree has {len(tree.changed)} uncommitted change{'s' if len(tree.changed) > 1 else ''}",
            why="images are tagged with the commit: the same tag must always mean the same content",
            evidence={"changed": shown + (["…"] if len(tree.changed) > len(shown) else [])},
            next="git commit (or git stash), or build local images marked -dirty: add --dirty",
            code="dirty_tree",
        )
    return tree.version + DIRTY


def files(directory: Path) -> list[str] | None:
    """Paths below ``directory`` that git tracks or would add (its ignore rules applied), sorted; None outside a repository."""
    listed = _git(directory, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".")
    if listed.returncode != 0:
        return None
    return sorted({os.fsdecode(path) for path in listed.stdout.split(b"\0") if path})


def origin(directory: Path) -> str:
    """The URL of the remote ``origin``; empty when there is none."""
    found = _git(directory, "remote", "get-url", "origin")
    return found.stdout.decode().strip() if found.returncode == 0 else ""


def _changed(porcelain: bytes) -> tuple[str, ...]:
    """Paths in ``git status --porcelain=v1 -z``; a rename is listed by its new name."""
    entries = porcelain.split(b"\0")
    paths: list[str] = []
    position = 0
    while position < len(entries):
        entry = entries[position]
        position += 1
        if len(entry) < 4:
            continue
        paths.append(os.fsdecode(entry[3:]))
        if entry[:1] in (b"R", b"C"):
            position += 1
    return tuple(paths)


def _git(directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        return subprocess.run(["git", "-C", str(directory), *arguments], capture_output=True, check=False, env=environ)
    except FileNotFoundError as error:
        raise LainError(
            "git is not installed", why="versions come from commits", next="install git", code="git_missing"
        ) from error
