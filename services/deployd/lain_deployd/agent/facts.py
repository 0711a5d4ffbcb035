"""What was found on this node, as nouns: what ``gather.py`` reads and ``conditions.py`` judges.

A field that is None could not be read; ``unread`` says why, by what it is needed for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lain_deployd.agent.engine import Glance
from lain_shared.contact import Certificate, ClockReading, Contact


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One file system the node's work depends on. ``holds``: what of ours is on it. Free is what may still be written."""

    holds: str
    path: str
    total_bytes: int
    free_bytes: int
    inodes: int
    free_inodes: int
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ClockJump:
    """Our clock was found ``seconds`` further on (or back) than time had passed; ``at`` is by the clock after it."""

    at: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Drop:
    """A rule of the firewall that ends a pod's packet. ``way``: ``to pods``, ``from pods``."""

    way: str
    chain: str
    rule: str
    policy: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What is looked at now and then: reading it costs something."""

    at: float
    file_systems: tuple[FileSystem, ...] = ()
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    memory_stalled_percent: float | None = None
    """Share of the last five minutes in which every process that could run waited for memory (PSI, full avg300)."""
    tasks: int | None = None
    max_tasks: int | None = None
    open_files: int | None = None
    max_open_files: int | None = None
    connections: int | None = None
    max_connections: int | None = None
    readings: tuple[ClockReading, ...] = ()
    jumps: tuple[ClockJump, ...] = ()
    registry: Contact | None = None
    etcd: tuple[Contact, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    own_certificate: Certificate | None = None
    """The one this process loaded when it started."""
    disk_certificate: Certificate | None = None
    """The one that lies where it was loaded from."""
    ip_forward: bool | None = None
    bridge_filter: bool | None = None
    drops: tuple[Drop, ...] | None = None
    containers: tuple[Glance, ...] | None = None
    unread: Mapping[str, str] = field(default_factory=dict)
    """What could not be read → why."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the agent knows of itself at any moment."""

    node: str
    now: float
    engine_trouble: str | None = None
    """Why the Engine does not answer; None: it does."""
    live_restore: bool = True
    network_trouble: str = ""
    address_problems: tuple[str, ...] = ()
    missing_volumes: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    disk_high_percent: int = 85
