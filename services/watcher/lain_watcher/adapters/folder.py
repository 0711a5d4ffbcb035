"""The folder shared with nginx's container: the table nginx starts from, and the gate that lets it start."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import structlog

from lain_shared.errors import Unavailable

log = structlog.get_logger()

TABLE, GATE, SOCKET = "table.jsonl", "gate", "control.sock"


class FolderFault(Unavailable):
    """The shared folder cannot be written: full, read-only, or another user's."""

    code = "state_dir_unusable"


class Folder:
    """The table is replaced by rename, so that nginx and the next watcher always find a whole one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.gate = path / GATE

    def secure(self) -> None:
        """Make sure that nobody but this user and root reads the table, which holds certificates' keys; what is open is shut and told of.

        Raises ``FolderFault`` when the folder is another user's: they could read, or replace, everything in it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._close(self.path, 0o700)
            for path in (self.path / TABLE, self.path / f"{TABLE}.new"):
                if path.is_file() or path.is_symlink():
                    self._close(path, 0o600)
        except OSError as error:
            raise FolderFault(f"{self.path} cannot be used", why=error.strerror or str(error)) from error

    def _close(self, path: Path, mode: int) -> None:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            found = os.fstat(file)
            if found.st_uid != os.geteuid():
                raise FolderFault(
                    f"{path} belongs to user {found.st_uid}, not to the watcher's user {os.geteuid()}",
                    next=f"chown {os.geteuid()} {path}",
                )
            if stat.S_IMODE(found.st_mode) != mode:
                os.fchmod(file, mode)
                log.warning(
                    "opened_to_others", path=str(path), was=f"{stat.S_IMODE(found.st_mode):04o}", now=f"{mode:04o}"
                )
        finally:
            os.close(file)

    def read_table(self) -> bytes | None:
        """The last table written, None when there is none. Raises ``FolderFault`` when it cannot be read."""
        try:
            return (self.path / TABLE).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FolderFault(f"{self.path / TABLE} cannot be read", why=error.strerror or str(error)) from error

    async def write_table(self, text: bytes) -> None:
        """On disk when this returns: a crash of the machine leaves the old or the new one. Holds keys: readable by its owner only."""
        await asyncio.to_thread(self._write, text)

    def _write(self, text: bytes) -> None:
        target, new = self.path / TABLE, self.path / f"{TABLE}.new"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.unlink(missing_ok=True)  # what a crash left there has a mode of its own
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 - a mode at creation
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(target)
        except OSError as error:
            raise FolderFault(
                f"the table cannot be written to {self.path}",
                why=error.strerror or str(error),
                next="make room there, or give the watcher's user the folder",
            ) from error

    def open_gate(self) -> bool:
        """Let nginx start, if it waits for that. True when the gate was shut: nginx's container started anew."""
        if self.gate.exists():
            return False
        try:
            self.gate.touch(mode=0o644)
        except OSError as error:
            raise FolderFault(f"{self.gate} cannot be written", why=error.strerror or str(error)) from error
        return True
