"""Versions and dirty trees; acceptance lines 5-7."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lain_cli import git
from tests.fixtures.cli import Lain

MANIFEST = "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: hello}\n"


def digest(directory: Path) -> str:
    """Every byte, name and mode below ``directory``, .git included."""
    seen = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        seen.update(f"{path.relative_to(directory)} {path.lstat().st_mode}\n".encode())
        if path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()


def test_no_manifest_says_so(lain: Lain) -> None:
    done = lain("meta")
    assert done.code == 1 and "no lain.yaml" in done.err and "lain init" in done.err


def test_the_version_is_commit_time_and_commit(lain: Lain) -> None:
    version = lain.commit({"lain.yaml": MANIFEST}, at=1500000000)
    done = lain("meta")
    assert (done.code, done.out) == (0, version + "\n")
    assert lain("meta", "-o", "json").json() == {"meta_version": version, "dirty": False}


def test_a_repository_without_commits_asks_for_one(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(MANIFEST)
    lain.git("init", "-q")
    lain.configure("local", registry="127.0.0.1:5000")
    for words in (("tag", "local"), ("push",), ("meta",), ("build",)):
        done = lain(*words)
        assert done.code == 1 and "git commit" in done.err, words


def test_no_repository_at_all_says_how_to_make_one(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(MANIFEST)
    done = lain("build")
    assert done.code == 1 and "git init" in done.err


def test_a_dirty_tree_is_refused_and_names_what_changed(lain: Lain) -> None:
    lain.commit({"lain.yaml": MANIFEST, "a": "1", "b": "2"})
    (lain.directory / "a").write_text("other")
    (lain.directory / "new file").write_text("x")
    lain.git("mv", "b", "c")
    done = lain("build")
    assert done.code == 1 and "3 uncommitted changes" in done.err and "--dirty" in done.err
    for name in ("a", "new file", "c"):
        assert f"    {name}\n" in done.err


def test_looking_changes_not_a_byte_not_even_the_index(lain: Lain) -> None:
    lain.commit({"lain.yaml": MANIFEST, "a": "1"})
    (lain.directory / "a").touch()
    before = digest(lain.directory)
    assert not git.inspect(lain.directory).dirty
    git.files(lain.directory)
    assert digest(lain.directory) == before


def test_dirty_versions_are_marked_and_missing_ones_allowed_only_on_demand(lain: Lain) -> None:
    version = lain.commit({"lain.yaml": MANIFEST})
    assert git.build_version(git.inspect(lain.directory), allow_dirty=False) == version
    (lain.directory / "x").write_text("")
    assert git.build_version(git.inspect(lain.directory), allow_dirty=True) == version + "-dirty"


def test_only_the_apps_own_directory_counts(lain: Lain) -> None:
    lain.commit({"app/lain.yaml": MANIFEST, "other/x": "1"})
    (lain.directory / "other" / "x").write_text("2")
    assert not git.inspect(lain.directory / "app").dirty
    assert git.inspect(lain.directory / "other").changed == ("other/x",)


def test_git_missing_is_one_clear_line(lain: Lain, tmp_path: Path) -> None:
    (lain.directory / "lain.yaml").write_text(MANIFEST)
    import os

    before = os.environ["PATH"]
    os.environ["PATH"] = str(tmp_path)
    try:
        done = lain("meta")
    finally:
        os.environ["PATH"] = before
    assert done.code == 1 and "git is not installed" in done.err
