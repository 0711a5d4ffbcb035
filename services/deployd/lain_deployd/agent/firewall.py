"""What the node's packet filter does with a pod's packet, out of what ``nft -j list table ip filter`` says. Pure.

Docker's own chains let pods be; what stands before them is the operator's: chain DOCKER-USER, and whatever was put at the top of FORWARD.
One new connection each way is taken through those rules. A rule that asks for something else than addresses and interfaces (a port, a
state) is somebody's policy for some packets, and is passed by.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lain_deployd.agent.facts import Drop

USER_CHAIN, FORWARD = "DOCKER-USER", "FORWARD"
ENDS = ("drop", "reject")
OUTSIDE = "198.51.100.1"
"""An address that is nobody's (RFC 5737): it stands for everything that is not the cluster."""
SILENT = ("counter", "comment", "log", "limit")
"""Expressions that decide nothing."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. ``way``: as people are told."""

    way: str
    source: str
    target: str
    enters: str
    leaves: str


def drops(
    document: Mapping[str, Any], *, block: str, bridge: str, uplink: str, others: Mapping[str, str]
) -> tuple[Drop, ...]:
    """The rules that end a new connection from this node's pods, or to them from another node.

    ``others``: name → address of every other node; whoever else is kept from the pods is nobody's fault. ``uplink``: the interface that
    leads to them.
    """
    chains = _chains(document)
    if FORWARD not in chains:
        return ()
    pod = str(ipaddress.IPv4Network(block)[2])
    packets = [Packet("from pods to the outside", pod, OUTSIDE, bridge, uplink)]
    packets += [Packet(f"from node {name} to pods", others[name], pod, uplink, bridge) for name in sorted(others)]
    found: list[Drop] = []
    for packet in packets:
        ended = _taken_through(chains, FORWARD, packet)
        if isinstance(ended, Drop):
            found.append(ended)
        elif ended is None and packet.leaves == bridge and chains[FORWARD].policy == "drop":
            found.append(Drop(packet.way, FORWARD, "policy drop", policy=True))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Chain:
    policy: str
    rules: tuple[tuple[Mapping[str, Any], ...], ...]


def _chains(document: Mapping[str, Any]) -> dict[str, _Chain]:
    policies: dict[str, str] = {}
    rules: dict[str, list[tuple[Mapping[str, Any], ...]]] = {}
    for item in document.get("nftables", ()):
        if chain := item.get("chain"):
            policies[chain["name"]] = chain.get("policy", "")
            rules.setdefault(chain["name"], [])
        elif rule := item.get("rule"):
            rules.setdefault(rule["chain"], []).append(tuple(rule.get("expr", ())))
    return {name: _Chain(policies.get(name, ""), tuple(found)) for name, found in rules.items()}


def _taken_through(chains: Mapping[str, _Chain], name: str, packet: Packet) -> Drop | bool | None:
    """A ``Drop``, True when it was accepted, None when the chain let it go on."""
    for rule in chains[name].rules:
        if not _matches(rule, packet):
            continue
        for expression in rule:
            kind = next(iter(expression))
            if kind in ENDS:
                return Drop(packet.way, name, _text(rule))
            if kind == "accept":
                return True
            if kind == "return":
                return None
            if kind == "xt" and _refuses(expression["xt"]):
                return Drop(packet.way, name, _text(rule))
            if kind == "jump" and (target := expression["jump"]["target"]) == USER_CHAIN and target in chains:
                ended = _taken_through(chains, target, packet)
                if ended is not None:
                    return ended
    return None


def _refuses(extension: Any) -> bool:
    """iptables' REJECT, which its nft variant keeps as an extension."""
    return isinstance(extension, Mapping) and extension.get("type") == "target" and extension.get("name") == "REJECT"


def _matches(rule: Iterable[Mapping[str, Any]], packet: Packet) -> bool:
    for expression in rule:
        kind = next(iter(expression))
        if kind == "match" and not _holds(expression["match"], packet):
            return False
        if kind == "xt" and not _refuses(expression["xt"]):
            return False
    return True


def _holds(match: Mapping[str, Any], packet: Packet) -> bool:
    """Whether a comparison holds; False for one that asks for anything but addresses and interfaces."""
    left, right, equal = match.get("left", {}), match.get("right"), match.get("op", "==") in ("==", "in")
    if meta := left.get("meta"):
        name = {"iifname": packet.enters, "oifname": packet.leaves}.get(meta.get("key", ""))
        return name is not None and _is_interface(name, right) is equal
    payload = left.get("payload", {})
    address = {"saddr": packet.source, "daddr": packet.target}.get(payload.get("field", ""))
    return payload.get("protocol") == "ip" and address is not None and _is_address(address, right) is equal


def _is_interface(name: str, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return any(_is_interface(name, one) for one in wanted.get("set", ()))
    text = str(wanted)
    return name.startswith(text[:-1]) if text.endswith("*") else name == text


def _is_address(address: str, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if prefix := wanted.get("prefix"):
            return ipaddress.ip_address(address) in ipaddress.ip_network(f"{prefix['addr']}/{prefix['len']}")
        if bounds := wanted.get("range"):
            low, high = (ipaddress.ip_address(one) for one in bounds)
            return int(low) <= int(ipaddress.ip_address(address)) <= int(high)
        return any(_is_address(address, one) for one in wanted.get("set", ()))
    try:
        return ipaddress.ip_address(address) == ipaddress.ip_address(str(wanted))
    except ValueError:
        return False


def _text(rule: Iterable[Mapping[str, Any]]) -> str:
    """The rule for people, about as ``nft`` writes it."""
    said: list[str] = []
    for expression in rule:
        kind = next(iter(expression))
        body = expression[kind]
        if kind == "match":
            left = body.get("left", {})
            what = left.get("meta", {}).get("key") or left.get("payload", {}).get("field", "?")
            said.append(f"{what} {'' if body.get('op') in ('==', 'in') else 'not '}{_value(body.get('right'))}")
        elif kind == "xt":
            said.append(str(body.get("name", kind)).lower() if isinstance(body, Mapping) else kind)
        elif kind not in SILENT:
            said.append(kind)
    return "rule " + " ".join(said)


def _value(right: Any) -> str:
    if isinstance(right, Mapping) and (prefix := right.get("prefix")):
        return f"{prefix['addr']}/{prefix['len']}"
    return str(right)
