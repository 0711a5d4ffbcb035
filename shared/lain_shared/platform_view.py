"""How the platform itself is, as one of its daemons sees it: who leads, etcd's members, records that nobody can read, the nodes.

Console and controller both answer it, each from what it knows: when one of them is dead the other still tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lain_shared.deployd_views import NodeView


@dataclass(frozen=True, slots=True)
class EtcdMemberView:
    """One member of etcd, asked just now. ``error``: why it did not answer ("" when it did)."""

    endpoint: str
    error: str = ""
    version: str = ""
    has_leader: bool = False
    leads: bool = False
    db_bytes: int = 0
    db_used_bytes: int = 0
    alarms: tuple[str, ...] = ()
    """What it complains of, in etcd's own words, e.g. ``memberID:… alarm:NOSPACE``."""


@dataclass(frozen=True, slots=True)
class LeaderView:
    """Who leads deployd. ``id`` "": nobody, or nobody can tell (``problem`` says why)."""

    id: str = ""
    since: float = 0.0
    foreign: bool = False
    """The key is there and is no leader's: no lease ends it, or it holds something else. No replica replaces it."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PlatformView:
    """``etcd`` empty: this daemon's store has no members to ask."""

    daemon: str
    version: str
    now: float
    """The daemon's clock when it answered."""
    leader: LeaderView
    store_trouble: str = ""
    """Why etcd cannot be followed now; what else is told is then from before."""
    etcd: tuple[EtcdMemberView, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Key → why nobody here can read it."""
    nodes: tuple[NodeView, ...] = ()
