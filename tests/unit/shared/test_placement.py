"""Which node, and why not the others."""

from __future__ import annotations

import time

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lain_shared.model.node import Node, NodeState
from lain_shared.model.pod import Assignment, PodTemplate, ProcType
from lain_shared.placement import Ask, BadFilter, Room, explain, make_rooms, parse_filter, place, place_many

MIB = 1024 * 1024


def node(name: str, *, memory: int = 1024, reserved: int = 0, **more: object) -> NodeState:
    fields: dict[str, object] = {"disk_total_bytes": 1, "disk_free_bytes": 1, "engine_version": "20.10", **more}
    return NodeState(name, 4, memory * MIB, reserved * MIB, **fields)  # type: ignore[arg-type]


def room(name: str, labels: dict[str, str] | None = None, **more: object) -> Room:
    return Room(name, labels or {}, state=node(name), **more)  # type: ignore[arg-type]


def rooms(*those: Room) -> dict[str, Room]:
    return {each.name: each for each in those}


def ask(*filters: str, memory: int = 32, **more: object) -> Ask:
    return Ask("hello", "web", PodTemplate("x", memory_bytes=memory * MIB), filters, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filter", "labels", "allowed"),
    [
        ("constraint:disk==ssd", {"disk": "ssd"}, True),
        ("constraint:disk==ssd", {"disk": "hdd"}, False),
        ("constraint:disk==ssd", {}, False),
        ("constraint:disk!=ssd", {}, True),
        ("constraint:disk!=ssd", {"disk": "ssd"}, False),
        ("constraint:node==n1", {}, True),
        ("constraint:node==n*", {}, True),
        ("constraint:node==m*", {}, False),
        ("constraint:node!=n1", {}, False),
        ("constraint:node==/^n[0-9]$/", {}, True),
        ("constraint:node==/x|1/", {}, True),
        ("constraint:zone==eu-?", {"zone": "eu-1"}, True),
        ("constraint:zone==EU-1", {"zone": "eu-1"}, False),
        ("constraint:group==default", {}, True),
        ("constraint:group==default", {"group": "gpu"}, False),
        ("constraint:group==gpu", {"group": "gpu"}, True),
    ],
)
def test_constraints(filter: str, labels: dict[str, str], allowed: bool) -> None:
    found = place(ask(filter), rooms(room("n1", labels)))
    if not filter.startswith("constraint:group"):
        assert (found.node == "n1") is allowed
    assert parse_filter(filter).allows(room("n1", labels)) is allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "constraint",
        "constraint:",
        "constraint:disk",
        "constraint:disk=ssd",
        "constraint:disk==",
        "constraint:==ssd",
        "limit:disk==ssd",
        "constraint:disk==/",
        "constraint:disk==/[/",
        "constraint:disk==/(a+)+/",
        "constraint:disk==/(a|b)*/",
        r"constraint:disk==/(a)\1/",
        "constraint:disk==/(?=a)/",
        "constraint:disk==/a*a*a*a*/",
        "constraint:disk==/[[a]/",
        "constraint:disk==/" + "a" * 200 + "/",
    ],
)
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(BadFilter):
        parse_filter(text)


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab.*+?()[]{}|^$\\/0123456789", max_size=30), st.text(alphabet="ab", max_size=128))
def test_no_regular_expression_takes_long(pattern: str, value: str) -> None:
    try:
        found = parse_filter(f"constraint:x==/{pattern}/")
    except BadFilter:
        return
    began = time.process_time()
    found.allows(room("n1", {"x": value}))
    assert time.process_time() - began < 1.0


def test_nodes_of_another_group_are_for_those_who_ask() -> None:
    gpu = rooms(room("n1", {"group": "gpu"}))
    assert place(ask(), gpu).ruled_out == {"constraint:group==default": 1}
    assert place(ask("constraint:group==gpu"), gpu).node == "n1"
    assert place(ask("constraint:group==*"), gpu).node == "n1"


def test_affinity_looks_at_the_pods_that_are_there() -> None:
    there, other = room("n1"), room("n2")
    there.take("db", "main", PodTemplate("x", labels={"tier": "data"}))
    assert place(ask("affinity:tier==data"), rooms(there, other)).node == "n1"
    assert place(ask("affinity:tier!=data"), rooms(there, other)).node == "n2"
    assert place(ask("affinity:app==db"), rooms(there, other)).node == "n1"
    assert place(ask("affinity:proc==db.*"), rooms(there, other)).node == "n1"
    assert place(ask("affinity:tier==cache"), rooms(there, other)).ruled_out == {"affinity:tier==cache": 2}


def test_a_soft_filter_prefers_and_rules_nobody_out() -> None:
    assert place(ask("constraint:disk==~ssd"), rooms(room("n1"), room("n2", {"disk": "ssd"}))).node == "n2"
    assert place(ask("constraint:disk==~ssd"), rooms(room("n1"))).node == "n1"


def test_each_node_is_ruled_out_once_and_the_numbers_add_up() -> None:
    full = room("full")
    full.take("big", "web", PodTemplate("x", memory_bytes=1000 * MIB))
    found = place(
        ask("constraint:disk==ssd"),
        rooms(
            Room("away", {"disk": "ssd"}, away=True, state=node("away")),
            room("cordoned", {"disk": "ssd"}, cordoned=True),
            room("draining", {"disk": "ssd"}, leaving=True),
            room("wrong"),
            Room("silent", {"disk": "ssd"}),
            Room("broken", {"disk": "ssd"}, state=node("broken", engine_reachable=False)),
            Room("addressless", {"disk": "ssd"}, state=node("a", block="172.20.1.0/24", free_addresses=0)),
            Room("full", {"disk": "ssd"}, state=node("full"), used_memory_bytes=1000 * MIB),
            Room("busy", {"disk": "ssd"}, state=node("busy"), used_cpu=17),
        ),
    )
    assert found.node is None
    assert found.ruled_out == {
        "away": 1, "cordoned": 1, "draining": 1, "constraint:disk==ssd": 1, "unknown": 1, "engine": 1, "addresses": 1,
        "memory": 1, "cpu": 1,
    }  # fmt: skip
    assert sum(found.ruled_out.values()) == found.nodes
    assert found.details["memory"] == "needs 32 MiB, the most that is free is 24 MiB on full"
    assert "of 9 nodes" in found.sentence


def test_reserved_memory_is_not_for_pods() -> None:
    small = Room("n1", state=node("n1", memory=128, reserved=100))
    assert place(ask(memory=28), rooms(small)).node == "n1"
    assert place(ask(memory=29), rooms(small)).ruled_out == {"memory": 1}


def test_the_request_is_reserved_not_the_limit() -> None:
    template = PodTemplate("x", memory_bytes=900 * MIB, memory_request_bytes=100 * MIB)
    verdicts = place_many([Ask("hello", "web", template)] * 11, rooms(room("n1")))
    assert [verdict.node for verdict in verdicts] == ["n1"] * 10 + [None]


def test_cpu_levels_fill_a_node() -> None:
    template = PodTemplate("x", memory_bytes=MIB, cpu=8)
    verdicts = place_many([Ask("hello", "web", template)] * 3, rooms(room("n1")))
    assert [verdict.node for verdict in verdicts] == ["n1", "n1", None]
    assert verdicts[-1].details["cpu"] == "needs 8 levels, the most that is free is 0 of 16 on n1"


def test_addresses_taken_in_the_same_plan_count() -> None:
    one = Room("n1", state=node("n1", block="172.20.1.0/24", free_addresses=2))
    assert [v.node for v in place_many([ask()] * 3, rooms(one))] == ["n1", "n1", None]


def test_pods_of_a_proc_are_spread_before_anything_else() -> None:
    crowded, empty = room("n1"), room("n2")
    empty.take("hello", "web", PodTemplate("x", memory_bytes=MIB))
    crowded.take("other", "web", PodTemplate("x", memory_bytes=500 * MIB))
    assert place(ask(), rooms(crowded, empty)).node == "n1"


def test_then_the_emptier_node_is_taken() -> None:
    fuller, emptier = room("n1"), room("n2")
    fuller.take("other", "web", PodTemplate("x", memory_bytes=500 * MIB))
    emptier.take("other", "web", PodTemplate("x", memory_bytes=400 * MIB))
    assert place(ask(), rooms(fuller, emptier)).node == "n2"
    emptier.take("third", "web", PodTemplate("x", memory_bytes=MIB, cpu=15))
    assert place(ask(), rooms(fuller, emptier)).node == "n1"


def test_ties_are_broken_by_the_names_so_that_apps_differ() -> None:
    many = rooms(*(room(f"n{n}") for n in range(8)))
    chosen = {place(Ask(f"app{n}", "web", PodTemplate("x")), many).node for n in range(50)}
    assert len(chosen) > 4
    reversed_order = dict(reversed(list(many.items())))
    assert place(ask(), many).node == place(ask(), reversed_order).node


def test_a_bound_instance_has_one_node_and_says_so() -> None:
    found = place(ask(only_node="n2"), rooms(room("n1"), room("n2", cordoned=True)))
    assert found.node is None and found.ruled_out == {"pinned": 1, "cordoned": 1}
    assert "must run on n2: its volume is there" in found.sentence


def test_no_nodes_at_all() -> None:
    assert place(ask(), {}).sentence == "no node fits: no node is registered"


def test_explain_has_a_word_on_every_node_best_first() -> None:
    found = explain(
        ask("constraint:disk==ssd"), rooms(room("n1"), room("n2", {"disk": "ssd"}), room("n3", cordoned=True))
    )
    assert found[0].node == "n2"
    assert {each.node: each.against for each in found} == {"n1": "constraint:disk==ssd", "n2": "", "n3": "cordoned"}
    why = {opinion.node: opinion.why for opinion in found}
    assert why == {
        "n1": "its disk is not set", "n2": "1 GiB of 1 GiB free", "n3": "it takes no new pods until it is uncordoned",
    }  # fmt: skip


def test_rooms_count_what_is_assigned() -> None:
    order = Assignment(
        "hello", "web", 1, 5, ProcType.WEB, 1, PodTemplate("x", memory_bytes=100 * MIB, cpu=2), run=False
    )
    made = make_rooms(
        {"n1": Node("n1", "10.0.0.1", {"disk": "ssd"})}, {"n1"}, {"n1": node("n1")}, [("n1", order), ("gone", order)]
    )
    assert (made["n1"].used_memory_bytes, made["n1"].used_cpu) == (100 * MIB, 2)
    assert not made["n1"].away and made["n1"].label("disk") == "ssd"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(32, 400), st.integers(0, 8)), max_size=30),
    st.lists(st.integers(100, 2000), min_size=1, max_size=5),
)
def test_nothing_is_ever_overbooked(pods: list[tuple[int, int]], nodes: list[int]) -> None:
    made = rooms(*(Room(f"n{n}", state=node(f"n{n}", memory=memory)) for n, memory in enumerate(nodes)))
    asks = [Ask("a", f"p{n}", PodTemplate("x", memory_bytes=m * MIB, cpu=c)) for n, (m, c) in enumerate(pods)]
    for wanted, verdict in zip(asks, place_many(asks, made), strict=True):
        if verdict.node is None:
            assert sum(verdict.ruled_out.values()) == len(nodes)
            assert not any(each.fits(wanted.template) for each in made.values()) or verdict.ruled_out
    for each in made.values():
        assert each.free_memory_bytes >= 0 and each.free_cpu >= 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(("a", "b")), max_size=20))
def test_taking_and_giving_back_leaves_nothing(order: list[str]) -> None:
    one, template = room("n1"), PodTemplate("x", cpu=1, labels={"k": "v"})
    for app in order:
        one.take(app, "web", template)
    for app in order:
        one.give_back(app, "web", template)
    assert (one.used_memory_bytes, one.used_cpu, dict(one.pod_labels)) == (0, 0, {})
