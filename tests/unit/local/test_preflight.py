"""Obstacles are all named at once, each with its fix; ports and networks give way to what is there."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_cli.local.preflight import PORTS, Facts, choose_lan, choose_ports, judge, refuse
from lain_shared.errors import Refused

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
            replace(GOOD, engine=None, engine_error="Cannot connect"),
            "no Docker Engine answers: Cannot connect",
            "systemctl start docker",
        ),
        (replace(GOOD, engine=None, engine_error="dial: permission denied"), "may not use", "usermod -aG docker"),
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
    assert judge(replace(GOOD, engine=None, engine_error="Cannot connect", can_start_engine=True)) == ()


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
