"""The folder shared with nginx holds certificates' keys: it is the watcher's alone, whatever it was before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lain_watcher.adapters.folder import Folder, FolderFault


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_the_watchers_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "router")
    folder.secure()
    assert mode(folder.path) == 0o700


def test_what_is_open_to_others_is_shut(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "router")
    folder.path.mkdir()
    folder.path.chmod(0o755)
    for name in ("table.jsonl", "table.jsonl.new"):
        (folder.path / name).write_text("keys")
        (folder.path / name).chmod(0o644)
    folder.secure()
    assert [mode(path) for path in (folder.path, *sorted(folder.path.iterdir()))] == [0o700, 0o600, 0o600]
    assert folder.read_table() == b"keys"


async def test_what_a_crash_left_lends_a_new_table_no_mode(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "table.jsonl.new").touch(mode=0o644)
    await folder.write_table(b"keys")
    assert mode(tmp_path / "table.jsonl") == 0o600


def test_a_table_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("keys")
    folder = Folder(tmp_path / "router")
    folder.path.mkdir()
    (folder.path / "table.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderFault):
        folder.secure()


@pytest.mark.parametrize("name", ["router", "router/table.jsonl"])
def test_another_users_folder_or_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = Folder(tmp_path / "router")
    folder.path.mkdir(mode=0o700)
    (folder.path / "table.jsonl").write_text("keys")
    (folder.path / "table.jsonl").chmod(0o600)
    theirs, fstat = (tmp_path / name).stat().st_ino, os.fstat

    def as_others(file: int) -> os.stat_result:
        found = fstat(file)
        return os.stat_result((*found[:4], found.st_uid + 1, *found[5:10])) if found.st_ino == theirs else found

    monkeypatch.setattr(os, "fstat", as_others)
    with pytest.raises(FolderFault, match="belongs to user"):
        folder.secure()
