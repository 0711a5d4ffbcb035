"""Copying images into a node: two commands and a pipe between them, of which either may fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lain_cli.local.docker import CommandFailed, Docker
from lain_cli.local.images import save_and_load

ENDLESS = "while :; do echo layer; done"


@pytest.mark.parametrize(
    ("save", "load", "said"),
    [
        (ENDLESS, "echo no space left on device >&2; exit 1", "no space left on device"),
        ("echo no such image >&2; exit 1", "cat >/dev/null", "no such image"),
    ],
)
@pytest.mark.timeout(20)
def test_a_copy_that_fails_ends_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: str, load: str, said: str
) -> None:
    """A node whose disk is full takes a little of the stream and goes: whoever writes it must not wait for that for ever."""
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\ncase "$1" in\nsave) {save} ;;\n*) {load} ;;\nesac\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CommandFailed) as told:
        save_and_load(Docker(), Docker("node"), ["lain/etcd:1"])
    assert said in "\n".join(told.value.evidence["output"])
