"""Which rules of a node's firewall end a pod's packets: as ``nft -j`` told them on a node, and as iptables writes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from lain_deployd.agent.firewall import drops

COUNTER = {"counter": {"packets": 0, "bytes": 0}}
DROP, ACCEPT, RETURN = {"drop": None}, {"accept": None}, {"return": None}
REJECT = {"xt": {"type": "target", "name": "REJECT"}}
STATE = {"xt": {"type": "match", "name": "conntrack"}}


def interface(key: str, name: str, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": {"meta": {"key": key}}, "right": name}}


def address(field: str, text: str) -> dict[str, Any]:
    net, _, length = text.partition("/")
    right: Any = {"prefix": {"addr": net, "len": int(length)}} if length else net
    return {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": field}}, "right": right}}


PORT = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}


def table(user: Iterable[list[Any]] = (), *, policy: str = "accept", first: Iterable[list[Any]] = ()) -> dict[str, Any]:
    """The filter table as Docker makes it, with ``user`` rules in DOCKER-USER and ``first`` ones at the top of FORWARD."""
    forward = [
        *first,
        [COUNTER, {"jump": {"target": "DOCKER-USER"}}],
        [COUNTER, {"jump": {"target": "DOCKER-ISOLATION-STAGE-1"}}],
        [interface("oifname", "lain0"), STATE, COUNTER, ACCEPT],
        [interface("oifname", "lain0"), COUNTER, {"jump": {"target": "DOCKER"}}],
        [interface("iifname", "lain0"), interface("oifname", "lain0", "!="), COUNTER, ACCEPT],
        [interface("iifname", "lain0"), interface("oifname", "lain0"), COUNTER, DROP],
    ]
    items: list[dict[str, Any]] = [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "filter"}}]
    items += [{"chain": {"name": name}} for name in ("DOCKER", "DOCKER-ISOLATION-STAGE-1", "DOCKER-USER")]
    items += [{"chain": {"name": "FORWARD", "policy": policy}}]
    items += [{"rule": {"chain": "DOCKER-ISOLATION-STAGE-1", "expr": [COUNTER, RETURN]}}]
    items += [{"rule": {"chain": "DOCKER-USER", "expr": rule}} for rule in [*user, [COUNTER, RETURN]]]
    items += [{"rule": {"chain": "FORWARD", "expr": rule}} for rule in forward]
    return {"nftables": items}


def found(document: dict[str, Any], *, others: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
    told = drops(
        document,
        block="172.20.1.0/24",
        bridge="lain0",
        uplink="ens3",
        others={"n2": "10.0.0.2"} if others is None else others,
    )
    return [(drop.way, drop.chain, drop.rule) for drop in told]


OUT, IN = "from pods to the outside", "from node n2 to pods"

CASES: tuple[tuple[str, list[list[Any]], list[tuple[str, str]]], ...] = (
    ("nothing", [], []),
    ("everything", [[COUNTER, DROP]], [(OUT, "rule drop"), (IN, "rule drop")]),
    ("refused", [[COUNTER, REJECT]], [(OUT, "rule reject"), (IN, "rule reject")]),
    ("pods as source", [[address("saddr", "172.20.0.0/16"), COUNTER, DROP]], [(OUT, "rule saddr 172.20.0.0/16 drop")]),
    ("pods as target", [[address("daddr", "172.20.1.0/24"), COUNTER, REJECT]], [(IN, "rule daddr 172.20.1.0/24 reject")]),
    ("another range", [[address("saddr", "192.168.0.0/16"), COUNTER, DROP]], []),
    ("what comes in", [[interface("iifname", "ens*"), COUNTER, DROP]], [(IN, "rule iifname ens* drop")]),
    ("not by the bridge", [[interface("iifname", "lain0", "!="), COUNTER, DROP]], [(IN, "rule iifname not lain0 drop")]),
    ("one port", [[address("daddr", "172.20.0.0/16"), PORT, COUNTER, DROP]], []),
    ("a state", [[STATE, COUNTER, DROP]], []),
    ("accepted before", [[address("daddr", "172.20.0.0/16"), ACCEPT], [COUNTER, DROP]], [(OUT, "rule drop")]),
    ("returned before", [[COUNTER, RETURN], [COUNTER, DROP]], []),
)  # fmt: skip


@pytest.mark.parametrize(("rules", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_rules_of_an_operator(rules: list[list[Any]], told: list[tuple[str, str]]) -> None:
    assert found(table(rules)) == [(way, "DOCKER-USER", rule) for way, rule in told]


def test_a_rule_before_dockers_own_chains() -> None:
    assert found(table(first=[[COUNTER, DROP]])) == [(OUT, "FORWARD", "rule drop"), (IN, "FORWARD", "rule drop")]


def test_the_policy_keeps_other_nodes_out_unless_something_lets_them_in() -> None:
    assert found(table(policy="drop")) == [(IN, "FORWARD", "policy drop")]
    assert found(table([[address("daddr", "172.20.0.0/16"), ACCEPT]], policy="drop")) == []
    assert found(table(policy="drop"), others={}) == []  # who else is kept from the pods is nobody's fault


def test_a_table_without_the_chain_says_nothing() -> None:
    assert found({"nftables": []}) == []
