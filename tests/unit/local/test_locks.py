"""The locks: every package we name is pinned with hashes, the images' lock is part of the whole one, and no index is named."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ("constraints.txt", "deploy/images/runtime.txt")
DISTRIBUTIONS = ("shared", "sdk", "cli", "services/console", "services/deployd", "services/watcher")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text()
    return {normal(found[1]): found[2] for found in re.finditer(r"^([A-Za-z0-9._-]+)==(\S+)", lines, re.MULTILINE)}


def named(lines: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in lines if not line.startswith("lain-")}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) > 30
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_every_direct_dependency_is_locked() -> None:
    wanted: set[str] = set()
    for distribution in DISTRIBUTIONS:
        wanted |= named(tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]["dependencies"])
    assert wanted <= set(pinned("deploy/images/runtime.txt")), "run `make lock`"
    wanted |= named(tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"])
    assert wanted <= set(pinned("constraints.txt")), "run `make lock`"


def test_the_images_run_the_versions_that_are_tested() -> None:
    whole, images = pinned("constraints.txt"), pinned("deploy/images/runtime.txt")
    assert {name: version for name, version in images.items() if whole.get(name) != version} == {}
