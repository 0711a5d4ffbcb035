"""Nodes: what operators say of them, that they are alive, and what they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Node:
    """``nodes/<node>``: what operators say. A cordoned node gets no new pods."""

    name: str
    address: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cordoned: bool = False


@dataclass(frozen=True, slots=True)
class Alive:
    """``alive/<node>`` (leased): the agent's presence. ``engine_id`` changes when the node was installed anew."""

    node: str
    agent_url: str
    """Where the console reaches this agent's API (logs, exec), e.g. ``https://10.77.0.11:9520``."""
    engine_id: str
    boot_id: str
    since: float


class ConditionStatus(StrEnum):
    """``true``: the fault is there. ``unknown``: it could not be looked at; the message says why."""

    TRUE = "true"
    FALSE = "false"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Condition:
    """One fault that is watched for on a node, as in Kubernetes' node conditions. Every type names a fault: ``true`` is bad.

    What each type means, and what to do about it, stands in ``lain_shared.conditions``. ``type`` is text, so that an older reader takes
    a newer agent's for what it is: one that it has no words for.
    """

    type: str
    status: ConditionStatus
    reason: str = ""
    """Which kind of it, for programs, e.g. ``CredentialsRefused``."""
    message: str = ""
    """The evidence, for people: what was found, with its numbers."""
    since: float = 0.0
    """When it came to this status, by the node's clock."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """``nodes-state/<node>``: what the node has. ``reserved_memory_bytes`` is kept for etcd, the Engine and the daemons."""

    node: str
    cpus: int
    memory_bytes: int
    reserved_memory_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    engine_version: str
    engine_reachable: bool = True
    agent_version: str = ""
    kernel: str = ""
    block: str = ""
    """The address block of this node's pods, e.g. ``172.20.1.0/24``."""
    free_addresses: int = 0
    volumes: tuple[str, ...] = ()
    """``<app>.<proc>-<instance>`` of every instance volume on the disk."""
    problems: tuple[str, ...] = ()
    """What the agent finds wrong with its node, in words: the messages of the conditions that are true."""
    conditions: tuple[Condition, ...] = ()
    """Every fault the agent watches for, found or not; none at all from an agent that does not know of them."""


@dataclass(frozen=True, slots=True)
class Block:
    """``blocks/<cidr>``: the node that owns an address block."""

    block: str
    node: str


@dataclass(frozen=True, slots=True)
class Drain:
    """``drains/<node>``: its pods are moved away by the rollout path; those with volumes or state stay."""

    node: str
    by: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Switch:
    """``switches/<name>``: readonly, maintenance, guard, breaker. ``on`` means: the named mode is in force."""

    name: str
    on: bool
    by: str = ""
    at: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Leader:
    """``leader/<service>`` (leased): the replica that leads."""

    id: str
    since: float
