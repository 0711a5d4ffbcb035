"""Obstacles are all named at once, each with its fix; ports and networks give way to what is there."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_cli.failures import Exit
from lain_cli.local import preflight
from lain_cli.local.docker import Docker
from lain_cli.local.engine import OwnEngine, Started
from lain_cli.local.preflight import (
    PORTS,
    Facts,
    choose_lan,
    choose_ports,
    gather,
    judge,
    nobody_listens,
    refuse,
    require_answer,
)
from lain_shared.errors import Refused, Unavailable
from tests.fixtures.cli import Lain

GOOD = Facts(
    docker_installed=True,
    engine={
        "ServerVersion": "20.10.24+dfsg1",
        "OSType": "linux",
        "MemTotal": 8_000_000_000,
        "SecurityOptions": ["name=seccomp"],
    },
    engine_error="",
    can_start_engine=False,
    disk_free_bytes=50_000_000_000,
    images_missing=(),
    can_build=True,
)


def test_a_good_machine_has_no_obstacle() -> None:
    assert judge(GOOD) == ()
    refuse(())


@pytest.mark.parametrize(
    ("facts", "what", "fix"),
    [
        (replace(GOOD, docker_installed=False), "docker is not installed", "apt-get install docker.io"),
        (
            replace(GOOD, engine=None, engine_error="Cannot connect", engine_absent=True),
            "no Docker Engine answers: Cannot connect",
            "systemctl start docker",
        ),
        (replace(GOOD, engine={**GOOD.engine, "ServerVersion": "19.03.1"}), "Engine is 19.03.1", "20.10"),  # type: ignore[dict-item]
        (replace(GOOD, engine={**GOOD.engine, "OSType": "windows"}), "windows", "Linux containers"),  # type: ignore[dict-item]
        (replace(GOOD, engine={**GOOD.engine, "SecurityOptions": ["name=rootless"]}), "rootless", "rootful"),  # type: ignore[dict-item]
        (replace(GOOD, engine={**GOOD.engine, "MemTotal": 900_000_000}), "0.9 GB of memory", "1.5 GB"),  # type: ignore[dict-item]
        (replace(GOOD, disk_free_bytes=1_000_000_000), "1.0 GB are free", "docker system df"),
        (replace(GOOD, images_missing=("lain/node:1",), can_build=False), "lain/node:1", "checkout"),
    ],
)
def test_each_obstacle_is_named_with_its_fix(facts: Facts, what: str, fix: str) -> None:
    (found,) = judge(facts)
    assert what in found.what and fix in found.fix


def test_all_obstacles_are_told_at_once_and_nothing_is_changed() -> None:
    facts = replace(GOOD, engine={**GOOD.engine, "ServerVersion": "19.03.1", "MemTotal": 1}, disk_free_bytes=1)  # type: ignore[dict-item]
    with pytest.raises(Refused, match="nothing was changed") as told:
        refuse(judge(facts))
    assert len(told.value.evidence["obstacles"]) == 3


def test_an_engine_that_we_can_start_is_no_obstacle() -> None:
    absent = replace(GOOD, engine=None, engine_error="Cannot connect", can_start_engine=True, engine_absent=True)
    require_answer(absent)
    assert judge(absent) == ()


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ("no answer within 2 s", "engine_silent", "repeat"),
        ("dial unix: connect: permission denied", "engine_denied", "usermod -aG docker"),
        ("Error response: 500", "engine_silent", "repeat"),
    ],
)
def test_an_engine_that_does_not_answer_is_not_an_absent_one(words: str, code: str, fix: str) -> None:
    with pytest.raises(Unavailable) as told:
        require_answer(replace(GOOD, engine=None, engine_error=words, can_start_engine=True))
    assert told.value.error_code == code and fix in told.value.next and told.value.why == words


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """The endpoint of an Engine that takes connections and says nothing."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent.sock"))
        listener.listen()
        yield f"unix://{tmp_path / 'silent.sock'}"


def test_only_a_socket_that_nobody_serves_says_so(tmp_path: Path, silent: str) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "left.sock"))
    assert nobody_listens(f"unix://{tmp_path / 'none.sock'}") and nobody_listens(f"unix://{tmp_path / 'left.sock'}")
    assert not nobody_listens(silent)
    assert (
        not nobody_listens("tcp://127.0.0.1:1")
        and not nobody_listens("ssh://nobody@nowhere")
        and not nobody_listens("")
    )


def test_what_is_seen_of_an_engine_that_is_away(tmp_path: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 0.5)
    own = OwnEngine(tmp_path / "engine")

    def seen(endpoint: str) -> Facts:
        return gather(Docker(environ={**os.environ, "DOCKER_HOST": endpoint}), own)

    none = f"unix://{tmp_path / 'none.sock'}"
    assert seen(none).engine_absent and not seen(silent).engine_absent
    own.folder.mkdir()
    clock = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    own.record.write_text(json.dumps(asdict(Started(os.getpid(), clock, "1", (), bridge=False))))
    starting = seen(none)  # ours lives, and has no socket yet
    assert not starting.engine_absent and str(os.getpid()) in starting.engine_error
    with pytest.raises(Unavailable, match="does not answer"):
        own.start(Docker(environ={**os.environ, "DOCKER_HOST": none}))
    assert own.started() is not None


def test_a_slow_engine_is_not_taken_for_none(lain: Lain, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "ANSWER_SECONDS", 0.5)
    monkeypatch.setenv("DOCKER_HOST", silent)
    monkeypatch.setenv("LAIN_CACHE", str(lain.directory / "cache"))
    lain.configure("local", console="http://127.0.0.1:1")
    for verb in ("up", "down", "status", "start", "stop"):
        done = lain("local", verb)
        assert done.code == Exit.UNREACHABLE and "does not answer" in done.err and "next:" in done.err, verb
    assert "local" in lain("config", "show").out
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert lain("local", "down").code == 0 and "local" not in lain("config", "show").out


def test_taken_ports_shift_to_where_people_look() -> None:
    taken = {80, 8080, 443, 5000}
    assert choose_ports(PORTS, lambda port: port not in taken) == {
        "router_http": 8081, "router_https": 8443, "console": 9510, "deployd": 9511, "registry": 5001,
    }  # fmt: skip


@given(st.sets(st.sampled_from([80, 443, 8080, 8443, 9510, 9511, 9512, 5000, 5001])))
def test_chosen_ports_are_free_and_distinct(taken: set[int]) -> None:
    chosen = choose_ports(PORTS, lambda port: port not in taken)
    assert not taken & set(chosen.values())
    assert len(set(chosen.values())) == len(PORTS)


def test_any_port_stays_any() -> None:
    assert set(choose_ports(dict.fromkeys(PORTS, 0), lambda _: False).values()) == {0}


@given(st.lists(st.integers(0, 255).map(lambda number: f"10.77.{number}.0/24"), max_size=200))
def test_the_bridge_overlaps_nothing(taken: list[str]) -> None:
    chosen = ipaddress.ip_network(choose_lan(taken))
    assert not any(chosen.overlaps(ipaddress.ip_network(one)) for one in taken)


def test_no_room_is_said_so() -> None:
    with pytest.raises(Refused, match=r"no /24"):
        choose_lan(["10.0.0.0/8"])
