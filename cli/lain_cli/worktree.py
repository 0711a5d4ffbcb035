"""The files of a work tree as one tar stream: what a build sees. Reads only; nothing is ever written into the tree.

Which files: with a ``.dockerignore``, all but what it names (``.git`` too, unless it says ``!.git``); otherwise what git tracks or
would add; outside a repository, everything.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lain_cli import git, ignore
from lain_shared.errors import LainError

ALWAYS_OUT = (".git", ".lain-cache")


@dataclass(frozen=True, slots=True)
class Selection:
    """The paths that go into a build, and by which rule they were chosen (for people)."""

    root: Path
    paths: tuple[str, ...]
    rule: str

    def size_bytes(self) -> int:
        return sum(_size(self.root / path) for path in self.paths)


def select(root: Path) -> Selection:
    """Choose the files below ``root``; directories are named too, so that empty ones exist in the build."""
    dockerignore = root / ".dockerignore"
    if dockerignore.is_file():
        lines = dockerignore.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        ignored = ignore.matcher([*ALWAYS_OUT, *lines])
        wants_git = any(line.strip().startswith("!.git") for line in lines)
        return Selection(root, tuple(path for path in _walk(root, wants_git) if not ignored(path)), ".dockerignore")
    tracked = git.files(root)
    if tracked is None:
        out = ignore.matcher(ALWAYS_OUT)
        return Selection(root, tuple(path for path in _walk(root) if not out(path)), "all files")
    paths: list[str] = []
    for path in tracked:
        where = root / path
        if where.is_dir() and not where.is_symlink():  # a submodule: git lists its directory only
            paths.extend(
                f"{path.rstrip('/')}/{below}" for below in _walk(where) if below.split("/")[0] not in ALWAYS_OUT
            )
        elif os.path.lexists(where):
            paths.append(path)
    return Selection(root, tuple(paths), "git's ignore rules")


def write_tar(
    target: IO[bytes], selection: Selection | None, extra: Mapping[str, bytes], *, below: str = "app"
) -> None:
    """Write the build context: ``extra`` files at the top, the selected tree under ``below/``. Streams; needs no temporary space.

    Owners are root; times and modes are the files' own. Sockets, pipes and devices are left out.
    """
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16) as archive:
        for name, content in extra.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
        if selection is None:
            return
        top = tarfile.TarInfo(below)
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(top)
        for path in selection.paths:
            _add(archive, selection.root / path, f"{below}/{path}")


def _add(archive: tarfile.TarFile, where: Path, name: str) -> None:
    try:
        kind = where.lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
            return
        member = archive.gettarinfo(where, arcname=name)
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        if member.islnk():  # a hard link to a file sent before: send it whole, the first may be excluded later
            member.type, member.linkname = tarfile.REGTYPE, ""
            member.size = where.stat().st_size
        if member.isreg():
            with where.open("rb") as content:
                archive.addfile(member, content)
        else:
            archive.addfile(member)
    except BrokenPipeError:
        raise
    except FileNotFoundError:
        return  # removed while we read: it is not in the tree any more
    except OSError as error:
        raise LainError(
            f"{where} cannot be read for the build", why=error.strerror or str(error), code="context_unreadable",
            next="correct its permissions, or name it in .dockerignore",
        ) from error  # fmt: skip


def _walk(root: Path, enter_git: bool = False) -> Iterator[str]:
    """Every path below ``root``, relative, ``/``-separated, in a stable order; links are not followed."""

    def failed(error: OSError) -> None:
        raise LainError(
            f"{error.filename} cannot be read for the build", why=error.strerror or "", code="context_unreadable"
        ) from error

    for directory, names, files in os.walk(root, onerror=failed):
        names.sort()
        if directory == str(root) and not enter_git:
            names[:] = [name for name in names if name != ".git"]
        base = Path(directory).relative_to(root).as_posix()
        prefix = "" if base == "." else base + "/"
        yield from sorted(prefix + name for name in (*names, *files))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size if not path.is_dir() else 0
    except OSError:
        return 0
