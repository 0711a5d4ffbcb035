"""What is found on a node, judged: every fault by its evidence, nothing without, and what could not be looked at is unknown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_deployd.agent.conditions import carry_over, judge, told_once
from lain_deployd.agent.engine import ContainerState, Glance
from lain_deployd.agent.facts import ClockJump, Drop, FileSystem, Known, Machine
from lain_deployd.agent.pods import LABEL_NODE, LABEL_POD
from lain_shared import conditions as words
from lain_shared.contact import Certificate, ClockReading, Contact, Reached
from lain_shared.model.node import Condition, ConditionStatus

NOW = 1_800_000_000.0
DAY = 86400
GIB = 1024**3
TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

DISK = FileSystem("volumes", "/var/lib/lain/volumes", 100 * GIB, 50 * GIB, 1000, 900)
POD = Glance(
    "hello.web-1.g3", ContainerState.RUNNING, {LABEL_POD: "hello.web-1.g3", LABEL_NODE: "n1"}, {"lain": "172.20.1.2"}
)
PART = Glance("lain-nginx", ContainerState.RUNNING, {"lain.part": "nginx"}, {"host": ""})
WELL = Machine(
    at=NOW,
    file_systems=(DISK,),
    memory_total_bytes=16 * GIB,
    memory_available_bytes=8 * GIB,
    memory_stalled_percent=0.0,
    tasks=400,
    max_tasks=32768,
    open_files=2000,
    max_open_files=100_000,
    connections=40,
    max_connections=262_144,
    readings=(ClockReading("registry", NOW, NOW + 0.01, float(int(NOW))), ClockReading("etcd", NOW, NOW + 0.01, float(int(NOW)))),
    registry=Contact("registry", "10.0.0.1:5000", status=200),
    etcd=(Contact("etcd", "10.0.0.1:2379", status=200),),
    certificates=(Certificate("the certificate of etcd", NOW - DAY, NOW + 300 * DAY),),
    own_certificate=Certificate("the agent's certificate", NOW - DAY, NOW + 300 * DAY),
    disk_certificate=Certificate("the agent's certificate", NOW - DAY, NOW + 300 * DAY),
    ip_forward=True,
    bridge_filter=True,
    drops=(),
    containers=(POD, PART),
)  # fmt: skip
KNOWN = Known("n1", NOW)
UNREACHED = Contact("registry", "r:5000", Reached.REFUSED, error="refused")


def conditions(known: Known = KNOWN, machine: Machine | None = WELL) -> Mapping[str, Condition]:
    return {one.type: one for one in carry_over((), judge(known, machine), NOW)}


def true(known: Known = KNOWN, machine: Machine | None = WELL) -> dict[str, str]:
    return {name: one.reason for name, one in conditions(known, machine).items() if one.status is TRUE}


def changed(**fields: Any) -> Machine:
    return replace(WELL, **fields)


def container(name: str, state: str = "running", exit_code: int | None = None, **labels: str) -> Glance:
    named = {key.replace("__", "."): value for key, value in labels.items()}
    return Glance(name, ContainerState(state), named, {} if named else {"lain": "172.20.1.9"}, exit_code)


def test_a_node_that_is_well_has_every_type_and_none_is_true() -> None:
    found = conditions()
    assert {one.status for one in found.values()} == {FALSE}
    assert found.keys() == {type for type in words.ADVICE if "/" not in type}


FAULTS: tuple[tuple[Machine, str, str, tuple[str, ...]], ...] = (
    (changed(file_systems=(replace(DISK, free_bytes=2 * GIB),)), words.DISK_PRESSURE, "Full", ("98 % full", "2.0 GiB of 100.0 GiB free")),
    (changed(file_systems=(replace(DISK, free_bytes=10 * GIB),)), words.DISK_PRESSURE, "AboveHighWater", ("90 % full",)),
    (changed(file_systems=(replace(DISK, free_inodes=3),)), words.INODE_PRESSURE, "Found", ("3 of 1000 inodes free",)),
    (changed(file_systems=(replace(DISK, read_only=True),)), words.DISK_READ_ONLY, "Found", ("mounted read-only", "/var/lib/lain/volumes")),
    (changed(memory_available_bytes=GIB // 2), words.MEMORY_PRESSURE, "LittleAvailable", ("512 MiB of 16.0 GiB",)),
    (changed(memory_stalled_percent=41.0), words.MEMORY_PRESSURE, "Stalled", ("in 41 % of the last five minutes",)),
    (changed(tasks=30_000), words.PID_PRESSURE, "NearLimit", ("30000 of at most 32768",)),
    (changed(open_files=95_000), words.OPEN_FILES_PRESSURE, "NearLimit", ("95000",)),
    (changed(connections=262_144), words.CONNTRACK_PRESSURE, "NearLimit", ("262144",)),
    (changed(jumps=(ClockJump(NOW - 60, -3600.0),)), words.CLOCK_JUMPED, "Jumped", ("set back by 3600 s",)),
    (changed(registry=UNREACHED), words.REGISTRY_UNAVAILABLE, "Unreachable", ("r:5000", "refused")),
    (changed(registry=Contact("registry", "r:5000", status=401)), words.REGISTRY_UNAVAILABLE, "CredentialsRefused", ("401",)),
    (changed(registry=Contact("registry", "r:5000", status=503)), words.REGISTRY_UNAVAILABLE, "ServerError", ("503",)),
    (
        changed(registry=Contact("registry", "r:5000", Reached.CERTIFICATE, error="its certificate: expired")),
        words.REGISTRY_UNAVAILABLE, "CertificateInvalid", ("expired",),
    ),
    (
        changed(etcd=(Contact("etcd", "a:2379", status=200), Contact("etcd", "b:2379", Reached.SILENT, error="no answer in 4 s"))),
        words.ETCD_MEMBER_UNREACHABLE, "Unreachable", ("b:2379: no answer",),
    ),
    (
        changed(certificates=(Certificate("the registry's", NOW - DAY, NOW + 10 * DAY),)),
        words.CERTIFICATE_EXPIRING, "Expiring", ("the registry's ends 2027-01-25",),
    ),
    (
        changed(own_certificate=Certificate("the agent's", NOW - DAY, NOW - 1), disk_certificate=None),
        words.CERTIFICATE_EXPIRING, "Expired", ("the agent's ended",),
    ),
    (
        changed(own_certificate=Certificate("the agent's", NOW + DAY, NOW + 300 * DAY)),
        words.CERTIFICATE_EXPIRING, "NotYetValid", ("the agent's begins",),
    ),
    (
        changed(own_certificate=Certificate("the agent's", NOW - DAY, NOW + 3 * DAY)),
        words.CERTIFICATE_EXPIRING, "RestartNeeded", ("in use ends", "on disk ends"),
    ),
    (changed(ip_forward=False), words.IP_FORWARD_OFF, "Off", ("net.ipv4.ip_forward is 0",)),
    (changed(bridge_filter=False), words.BRIDGE_FILTER_OFF, "Off", ("bridge-nf-call-iptables is 0",)),
    (
        changed(drops=(Drop("from pods to the outside", "DOCKER-USER", "rule drop"),)),
        words.POD_TRAFFIC_DROPPED, "Rule", ("chain DOCKER-USER: rule drop",),
    ),
    (
        changed(drops=(Drop("from node n2 to pods", "FORWARD", "policy drop", policy=True),)),
        words.POD_TRAFFIC_DROPPED, "PolicyDrop", ("from node n2",),
    ),
    (
        changed(containers=(container("lain-registry", "exited", 137, lain__part="registry"),)),
        words.PART_DOWN, "NotRunning", ("lain-registry: lain-registry is exited (exit code 137)",),
    ),
    (changed(containers=(container("lain-nginx", "paused", lain__part="nginx"),)), words.PART_DOWN, "Paused", ("is paused",)),
    (changed(containers=(POD, container("by-hand"))), words.STRANGERS, "NotOurs", ("is no pod, at 172.20.1.9",)),
    (
        changed(containers=(container("old", lain__pod="a.web-1.g1", lain__node="n9"),)),
        words.STRANGERS, "NotOurs", ("a pod of node n9",),
    ),
    (
        changed(containers=(container("odd", lain__pod="nonsense", lain__node="n1"),)),
        words.STRANGERS, "NotOurs", ("'nonsense', which names no pod",),
    ),
)  # fmt: skip


@pytest.mark.parametrize(("machine", "type", "reason", "told"), FAULTS)
def test_each_fault_is_named_with_its_evidence_and_nothing_else(
    machine: Machine, type: str, reason: str, told: tuple[str, ...]
) -> None:
    assert true(machine=machine) == {type: reason}
    message = conditions(machine=machine)[type].message
    assert all(text in message for text in told), message


KNOWN_FAULTS: tuple[tuple[Known, str, str], ...] = (
    (replace(KNOWN, engine_trouble="no such file"), words.ENGINE_UNREACHABLE, "does not answer: no such file"),
    (replace(KNOWN, live_restore=False), words.LIVE_RESTORE_OFF, "live-restore"),
    (replace(KNOWN, network_trouble="block x belongs to node n2"), words.POD_NETWORK_MISSING, "belongs to node n2"),
    (replace(KNOWN, address_problems=("router r1 holds 200",)), words.ADDRESSES_SHORT, "r1"),
    (replace(KNOWN, missing_volumes=("shop.db-1",)), words.VOLUME_MISSING, "the data of shop.db-1 is gone"),
    (replace(KNOWN, unreadable={"/lain/assign/n1/x": "it is newer"}), words.RECORDS_UNREADABLE, "/lain/assign/n1/x: it is newer"),
)  # fmt: skip


@pytest.mark.parametrize(("known", "type", "told"), KNOWN_FAULTS)
def test_what_the_agent_knows_of_itself_is_judged_the_same(known: Known, type: str, told: str) -> None:
    assert list(true(known)) == [type]
    assert told in conditions(known)[type].message


def test_an_engine_that_is_away_leaves_what_it_would_tell_unknown() -> None:
    found = conditions(replace(KNOWN, engine_trouble="gone"), changed(containers=None, unread={"containers": "gone"}))
    unknown = {name for name, one in found.items() if one.status is UNKNOWN}
    assert unknown == {words.LIVE_RESTORE_OFF, words.PART_DOWN, words.POD_NETWORK_MISSING, words.STRANGERS}


def test_what_cannot_be_read_is_unknown_and_says_why() -> None:
    found = conditions(machine=Machine(at=NOW, unread={"firewall": "nft is not there"}))
    assert found[words.POD_TRAFFIC_DROPPED].status is UNKNOWN
    assert found[words.POD_TRAFFIC_DROPPED].message == "nft is not there"
    assert TRUE not in {one.status for one in found.values()}


# --- clocks -----------------------------------------------------------------------------------------------------------


def reading(offset: float, *, of: str = "etcd", took: float = 0.02, now: float = NOW + 0.4) -> ClockReading:
    """An answer of a server whose clock is behind ours by ``offset``."""
    return ClockReading(of, now, now + took, float(int(now + took / 2 - offset)))


@given(offset=st.floats(-300, 300), took=st.floats(0.001, 3.5), fraction=st.floats(0, 0.999), count=st.integers(1, 5))
def test_a_clock_is_never_called_off_that_may_be_right_nor_right_that_is_off(
    offset: float, took: float, fraction: float, count: int
) -> None:
    """Off by less than two seconds is never told; off by two more than an answer can hide always is."""
    asked = tuple(reading(offset, of=f"etcd{i}", took=took, now=NOW + fraction) for i in range(count))
    found = conditions(machine=changed(readings=asked))[words.CLOCK_SKEWED]
    if abs(offset) < 2.0:
        assert found.status is FALSE
    if abs(offset) > 3.0 + took:
        assert found.status is TRUE
        assert found.reason == ("Ahead" if offset > 0 else "Behind")


def test_one_wrong_server_does_not_make_the_node_wrong() -> None:
    asked = (reading(0.0, of="etcd a"), reading(0.1, of="etcd b"), reading(90.0, of="registry"))
    assert true(machine=changed(readings=asked)) == {}


def test_servers_that_do_not_agree_prove_nothing() -> None:
    found = conditions(machine=changed(readings=(reading(0.0, of="etcd"), reading(90.0, of="registry"))))
    assert found[words.CLOCK_SKEWED].status is UNKNOWN
    assert "do not agree" in found[words.CLOCK_SKEWED].message


def test_a_jump_is_told_for_ten_minutes() -> None:
    jump = ClockJump(NOW - 601, 3600.0)
    assert true(machine=changed(jumps=(jump,))) == {}
    assert "set forward by 3600 s" in conditions(machine=changed(at=NOW - 2, jumps=(jump,)))[words.CLOCK_JUMPED].message


# --- over time --------------------------------------------------------------------------------------------------------


def test_a_condition_keeps_the_time_it_came_at() -> None:
    full = changed(file_systems=(replace(DISK, free_bytes=0),))
    first = carry_over((), judge(KNOWN, full), NOW)
    fuller = changed(file_systems=(replace(DISK, free_bytes=1),))
    second = {one.type: one for one in carry_over(first, judge(KNOWN, fuller), NOW + 60)}
    assert second[words.DISK_PRESSURE].since == NOW
    third = {one.type: one for one in carry_over(second.values(), judge(KNOWN, WELL), NOW + 90)}
    assert (third[words.DISK_PRESSURE].status, third[words.DISK_PRESSURE].since) == (FALSE, NOW + 90)


def test_before_the_first_look_what_was_said_before_stands() -> None:
    before = (Condition(words.DISK_PRESSURE, TRUE, "Full", "no room", 5.0),)
    found = {one.type: one for one in carry_over(before, judge(KNOWN, None), NOW)}
    assert found[words.DISK_PRESSURE] == before[0]
    assert found[words.CLOCK_SKEWED].reason == "NotLookedYet"
    assert found[words.ENGINE_UNREACHABLE].status is FALSE


def test_what_is_as_it_was_says_what_it_said() -> None:
    once = carry_over((), judge(KNOWN, WELL), NOW)
    assert carry_over(once, judge(replace(KNOWN, now=NOW + 30), replace(WELL, at=NOW + 30)), NOW + 30) == once


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_places_on_one_disk_are_told_once() -> None:
    root = FileSystem("the Engine's data", "/", 100 * GIB, 50 * GIB - 4096, 1000, 900)
    other = FileSystem("the agent's state", "/x", 10 * GIB, 5 * GIB, 10, 9)
    found = told_once((DISK, root, other))
    assert [one.holds for one in found] == ["volumes, the Engine's data", "the agent's state"]


def test_everything_that_can_be_found_has_words_and_a_next_step() -> None:
    named = [(type, reason) for _, type, reason, _ in FAULTS]
    for type, reason in [*named, *((type, "Found") for _, type, _ in KNOWN_FAULTS)]:
        condition = Condition(type, TRUE, reason, "lain-a, lain-b: both are down", NOW)
        told = words.advice(condition)
        assert told.what and told.why
        for local in (False, True):
            line = words.step(condition, local=local, block="172.20.1.0/24").on("n1")
            assert line and "{" not in line.replace("$((", ""), line
    down = Condition(words.PART_DOWN, TRUE, "NotRunning", "lain-a, lain-b: both are down", NOW)
    assert words.step(down).on("n1").endswith("docker start lain-a lain-b")
    assert "no words" in words.advice(Condition("Newer", TRUE)).why
