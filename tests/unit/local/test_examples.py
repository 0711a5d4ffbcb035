"""Every example is a valid app, listed in the examples' README."""

from __future__ import annotations

from pathlib import Path

import pytest

from lain_sdk.manifest import load

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MANIFESTS = sorted(EXAMPLES.glob("*/lain.yaml"))


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.parent.name)
def test_an_example_is_valid_and_listed(file: Path) -> None:
    manifest = load(file.read_bytes(), file=str(file))
    assert manifest.appname == file.parent.name
    assert f"[{file.parent.name}]({file.parent.name})" in (EXAMPLES / "README.md").read_text()


def test_there_are_eight_of_them() -> None:
    assert len(MANIFESTS) == 8
