"""How a part's container is replaced: the successor is made first, the old one gets its grace, and a replacement cut short is finished."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lain_cli.local.platform import Part, Site, parts, replacement, run_argv

PARTS = {part.name: part for part in parts(Site("n1", "10.77.0.11"))}
DOCKER = """#!/bin/sh
# An Engine whose containers are files; what runs ends once its successor was started, or when none was for a second.
echo "$*" | cut -c1-60 >> {home}/log
case "$1" in
container) test -e {home}/is/$3 ;;
rename) mv {home}/is/$2 {home}/is/$3 ;;
create) shift; while [ "$1" != --name ]; do shift; done; test ! -e {home}/is/$2 && touch {home}/is/$2 ;;
kill) ;;
stop | wait) for i in 1 2 3 4 5 6 7 8 9 10; do grep -q ^start {home}/log && break; sleep 0.1; done; echo stopped >> {home}/log ;;
rm) shift; test "$1" = --force && shift; rm -f {home}/is/$1 ;;
esac
"""


def carry_out(part: Part, home: Path, *there: str) -> list[str]:
    """The first words of what the Engine was asked, in order."""
    (home / "is").mkdir()
    for name in there:
        (home / "is" / name).touch()
    docker = home / "docker"
    docker.write_text(DOCKER.format(home=home))
    docker.chmod(0o755)
    script = replacement(part, run_argv(part, "image:2", "sha256:2"))
    subprocess.run(["sh", "-c", script], env={**os.environ, "PATH": f"{home}:{os.environ['PATH']}"}, check=True)
    assert [path.name for path in (home / "is").iterdir()] == [part.container]
    asked = [line.split()[0] for line in (home / "log").read_text().splitlines()]
    return [word for word in asked if word != "container"]


def test_the_successor_is_made_before_the_old_one_stops(tmp_path: Path) -> None:
    done = carry_out(PARTS["console"], tmp_path, "lain-console")
    assert done == ["rename", "create", "stop", "stopped", "start", "rm"]


def test_what_lets_go_of_its_ports_at_once_is_not_waited_for(tmp_path: Path) -> None:
    """nginx ends its requests for seconds, and listens no more meanwhile."""
    done = carry_out(PARTS["nginx"], tmp_path, "lain-nginx")
    assert done == ["rename", "create", "update", "start", "kill", "wait", "stopped", "rm"]
    assert [part.name for part in PARTS.values() if part.hands_over] == ["nginx"]


@pytest.mark.parametrize(
    ("there", "done"),
    [
        ((), ["create", "start"]),
        (("lain-console-old",), ["create", "stop", "stopped", "start", "rm"]),
        (("lain-console", "lain-console-old"), ["rm", "rename", "create", "stop", "stopped", "start", "rm"]),
    ],
)
def test_it_may_be_cut_short_anywhere(tmp_path: Path, there: tuple[str, ...], done: list[str]) -> None:
    assert carry_out(PARTS["console"], tmp_path, *there) == done
