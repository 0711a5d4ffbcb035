"""Who may stop the Engine that `lain local` started, while several of them are at work."""

from __future__ import annotations

from pathlib import Path

from lain_cli.local.docker import Docker
from lain_cli.local.engine import OwnEngine


def test_nobody_stops_the_engine_while_another_makes_a_cluster_or_takes_one_away(tmp_path: Path) -> None:
    own, other = OwnEngine(tmp_path), OwnEngine(tmp_path)
    with other.in_use(), OwnEngine(tmp_path).in_use():  # any number may be at work
        assert own.stop(Docker()) == "another lain local is at work"
    assert own.stop(Docker()) is None, "it never started one"
