"""``.dockerignore`` by Docker's rules, and which files a build sees."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from lain_cli import ignore, worktree
from lain_shared.errors import LainError
from tests.fixtures.cli import Lain


@pytest.mark.parametrize(
    ("rules", "out", "kept"),
    [
        (["*.log"], ["a.log"], ["sub/a.log", "a.logs"]),
        (["**/*.log"], ["a.log", "sub/a.log", "x/y/a.log"], ["a.txt"]),
        (["build"], ["build", "build/x", "build/x/y"], ["rebuild", "sub/build"]),
        (["/build/"], ["build/x"], ["sub/build/x"]),
        (["*", "!keep", "!dir/deep"], ["x", "dir/other"], ["keep", "dir/deep", "dir/deep/f"]),
        (["*.md", "!README.md"], ["x.md"], ["README.md"]),
        (["*.md", "!README*.md", "README-secret.md"], ["README-secret.md"], ["README.md"]),
        (["# a comment", "", "  a  "], ["a"], ["# a comment", "b"]),
        (["a?c", "[xy]z"], ["abc", "xz", "yz"], ["ac", "abbc", "zz", "a/c"]),
        (["foo/**"], ["foo/a", "foo/a/b"], ["foo2"]),
        (["./x/../y"], ["y"], ["x"]),
        (["a\\*b"], ["a*b"], ["axb"]),
    ],
)
def test_rules(rules: list[str], out: list[str], kept: list[str]) -> None:
    ignored = ignore.matcher(rules)
    assert [path for path in [*out, *kept] if ignored(path)] == out


def names(selection: worktree.Selection) -> list[str]:
    buffer = io.BytesIO()
    worktree.write_tar(buffer, selection, {"Dockerfile": b"FROM x\n"})
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        return sorted(archive.getnames())


def test_in_a_repository_git_decides(lain: Lain) -> None:
    lain.commit({"a": "1", "sub/b": "2", ".gitignore": "out\n*.tmp\n", "Dockerfile": "FROM mine\n"})
    for extra in ("out/big", "x.tmp", "new"):
        path = lain.directory / extra
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    selection = worktree.select(lain.directory)
    assert selection.rule == "git's ignore rules"
    assert set(selection.paths) == {".gitignore", "Dockerfile", "a", "sub/b", "new"}
    assert names(selection) == [
        "Dockerfile",
        "app",
        "app/.gitignore",
        "app/Dockerfile",
        "app/a",
        "app/new",
        "app/sub/b",
    ]


def test_a_dockerignore_decides_alone(lain: Lain) -> None:
    lain.commit({"a": "1", "b": "2", ".gitignore": "out\n", ".dockerignore": "b\n"})
    (lain.directory / "out").mkdir()
    (lain.directory / "out" / "x").write_text("x")
    selection = worktree.select(lain.directory)
    assert selection.rule == ".dockerignore"
    assert set(selection.paths) == {".dockerignore", ".gitignore", "a", "out", "out/x"}
    (lain.directory / ".dockerignore").write_text("!.git/HEAD\n")
    assert ".git/HEAD" in worktree.select(lain.directory).paths


def test_outside_a_repository_everything_goes_in(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "f").write_text("x")
    assert names(worktree.select(tmp_path)) == ["Dockerfile", "app", "app/empty", "app/f"]


def test_modes_links_and_content_survive_and_owners_do_not(tmp_path: Path) -> None:
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o750)
    (tmp_path / "link").symlink_to("run.sh")
    (tmp_path / "dangling").symlink_to("/nowhere")
    os.link(tmp_path / "run.sh", tmp_path / "twin")
    os.mkfifo(tmp_path / "pipe")
    buffer = io.BytesIO()
    worktree.write_tar(buffer, worktree.select(tmp_path), {})
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert stat.S_IMODE(members["app/run.sh"].mode) == 0o750
        assert members["app/link"].linkname == "run.sh" and members["app/dangling"].linkname == "/nowhere"
        assert {(member.uid, member.gid, member.uname) for member in members.values()} == {(0, 0, "")}
        assert "app/pipe" not in members
        for name in ("app/run.sh", "app/twin"):
            content = archive.extractfile(members[name])
            assert content is not None and content.read() == b"#!/bin/sh\n"


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("x")
    real = Path.open

    def refuse(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "secret":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything: the kernel cannot refuse here
    with pytest.raises(LainError, match="secret cannot be read"):
        worktree.write_tar(io.BytesIO(), worktree.select(tmp_path), {})


def test_a_file_that_vanished_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    selection = worktree.select(tmp_path)
    (tmp_path / "f").unlink()
    assert names(selection) == ["Dockerfile", "app"]
    assert selection.size_bytes() == 0


def test_a_submodule_is_taken_whole(lain: Lain, tmp_path: Path) -> None:
    other = Lain(lain.home, tmp_path / "other", lain.environ)
    other.directory.mkdir()
    other.commit({"lib.py": "x", "deep/y": "y"})
    lain.commit({"a": "1"})
    lain.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other.directory), "vendor/lib")
    paths = set(worktree.select(lain.directory).paths)
    assert {"vendor/lib/lib.py", "vendor/lib/deep/y", "a"} <= paths
    assert not any(path.endswith(".git") for path in paths)
