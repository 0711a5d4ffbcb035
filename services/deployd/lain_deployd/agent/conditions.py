"""Judging what was found on a node: facts in, ``Condition``s out. Pure.

A verdict needs evidence: what could not be read is ``unknown``, never ``false``. The messages carry numbers, rounded so that a node that
is as it was says what it said. Messages about containers begin ``names: …``; ``lain_shared.conditions`` fills them into its commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from lain_deployd.agent.facts import FileSystem, Known, Machine
from lain_deployd.agent.pods import LABEL_NODE, LABEL_POD
from lain_deployd.agent.spec import NETWORK
from lain_shared import conditions as words
from lain_shared.contact import Certificate, Reached, apart
from lain_shared.model.node import Condition, ConditionStatus
from lain_shared.model.pod import PodId

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

FULL_PERCENT = 95
LITTLE_MEMORY = 0.05
STALLED_PERCENT = 20.0
NEARLY = 0.9
"""Of a limit of the kernel."""
MOST_SKEW_SECONDS = 2.0
"""Certainly apart by so much. Clocks that are kept are within milliseconds; an answer tells its server's to the second."""
JUMP_TOLD_SECONDS = 600.0
SOON_DAYS = 30
DAY_SECONDS = 86400
PART_LABEL = "lain.part"
REPLACED = "-old"
"""How a part is named while its successor, under its name, takes over from it."""
DOWN_STATES = ("created", "exited", "paused", "dead", "restarting")
MOST_NAMED = 5
MIB, GIB = 1024**2, 1024**3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one type. ``kept``: it has not been looked at yet, so what was said of it before stands."""

    type: str
    status: ConditionStatus
    reason: str = ""
    message: str = ""
    kept: bool = False


def judge(known: Known, machine: Machine | None) -> tuple[Verdict, ...]:
    """A verdict for every type there is. ``machine`` None: nothing was looked at yet."""
    found = [*_inside(known)]
    if machine is not None:
        found += _machine(known, machine)
    told = {verdict.type for verdict in found}
    found += [Verdict(type, UNKNOWN, kept=True) for type in _types() if type not in told]
    return tuple(sorted(found, key=lambda verdict: verdict.type))


def carry_over(before: Iterable[Condition], verdicts: Iterable[Verdict], now: float) -> tuple[Condition, ...]:
    """The conditions to publish: one that has not changed keeps the time it came at."""
    known = {one.type: one for one in before}
    found: list[Condition] = []
    for verdict in verdicts:
        earlier = known.get(verdict.type)
        if verdict.kept:
            found.append(earlier or Condition(verdict.type, UNKNOWN, "NotLookedYet", "not looked at yet", now))
            continue
        since = earlier.since if earlier is not None and earlier.status is verdict.status else now
        found.append(Condition(verdict.type, verdict.status, verdict.reason, verdict.message, since))
    return tuple(found)


def _types() -> tuple[str, ...]:
    return tuple(type for type in words.ADVICE if "/" not in type)


def _inside(known: Known) -> list[Verdict]:
    """What the agent itself knows at any moment."""
    trouble = known.engine_trouble
    away = trouble is not None
    network = known.network_trouble
    return [
        Verdict(words.ENGINE_UNREACHABLE, TRUE, "NoAnswer", f"the Engine does not answer: {trouble}")
        if away
        else _no(words.ENGINE_UNREACHABLE),
        _unknown(words.LIVE_RESTORE_OFF, "the Engine does not answer")
        if away
        else _when(
            words.LIVE_RESTORE_OFF, not known.live_restore, "the Engine runs without live-restore: its restart ends every container"
        ),
        _unknown(words.POD_NETWORK_MISSING, "the Engine does not answer")
        if away and not network
        else _when(words.POD_NETWORK_MISSING, bool(network), network),
        _when(
            words.ADDRESSES_SHORT, bool(known.address_problems) and not known.unreadable, "; ".join(known.address_problems)
        ),
        _when(
            words.VOLUME_MISSING,
            bool(known.missing_volumes),
            "; ".join(f"the data of {name} is gone from this node's disk" for name in sorted(known.missing_volumes)),
        ),
        _when(words.RECORDS_UNREADABLE, bool(known.unreadable), _listed(
            [*(f"{key}: {why}" for key, why in known.unreadable.items()), *(known.address_problems if known.unreadable else ())]
        )),
    ]  # fmt: skip


def _machine(known: Known, machine: Machine) -> list[Verdict]:
    return [
        *_disks(known, machine),
        _memory(machine),
        _limit(machine, words.PID_PRESSURE, "processes and threads", machine.tasks, machine.max_tasks),
        _limit(machine, words.OPEN_FILES_PRESSURE, "open files", machine.open_files, machine.max_open_files),
        _limit(machine, words.CONNTRACK_PRESSURE, "tracked connections", machine.connections, machine.max_connections),
        _clock(machine),
        _jumped(machine),
        _registry(machine),
        _etcd(machine),
        _certificates(machine),
        _switch(machine, words.IP_FORWARD_OFF, "net.ipv4.ip_forward", machine.ip_forward),
        _switch(machine, words.BRIDGE_FILTER_OFF, "net.bridge.bridge-nf-call-iptables", machine.bridge_filter),
        _drops(machine),
        _parts(known, machine),
        _strangers(known, machine),
    ]


# --- disks, memory, limits --------------------------------------------------------------------------------------------


def _disks(known: Known, machine: Machine) -> list[Verdict]:
    if not machine.file_systems:
        why = machine.unread.get("disk", "not read")
        return [_unknown(type, why) for type in (words.DISK_PRESSURE, words.INODE_PRESSURE, words.DISK_READ_ONLY)]
    full, high, inodes, closed = [], [], [], []
    for one in told_once(machine.file_systems):
        used = _used_percent(one.total_bytes, one.free_bytes)
        if used >= FULL_PERCENT:
            full.append(one)
        elif used > known.disk_high_percent:
            high.append(one)
        if one.inodes and _used_percent(one.inodes, one.free_inodes) >= FULL_PERCENT:
            inodes.append(one)
        if one.read_only:
            closed.append(one)
    pressed = [*full, *high]
    told = _listed(
        f"{one.holds} ({one.path}) is {_used_percent(one.total_bytes, one.free_bytes):.0f} % full: {_size(one.free_bytes)} of "
        f"{_size(one.total_bytes)} free"
        for one in pressed
    )
    return [
        Verdict(words.DISK_PRESSURE, TRUE, "Full" if full else "AboveHighWater", told) if pressed else _no(words.DISK_PRESSURE),
        _when(words.INODE_PRESSURE, bool(inodes), _listed(
            f"{one.holds} ({one.path}) has {one.free_inodes} of {one.inodes} inodes free" for one in inodes
        )),
        _when(words.DISK_READ_ONLY, bool(closed), _listed(
            f"{one.holds} ({one.path}) is mounted read-only" for one in closed
        )),
    ]  # fmt: skip


def _used_percent(total: int, free: int) -> float:
    return 100.0 * (total - free) / total if total else 0.0


def _memory(machine: Machine) -> Verdict:
    total, available = machine.memory_total_bytes, machine.memory_available_bytes
    if not total or available is None:
        return _unknown(words.MEMORY_PRESSURE, machine.unread.get("memory", "not read"))
    stalled = machine.memory_stalled_percent or 0.0
    left = f"{_size(available)} of {_size(total)} available"
    if available < LITTLE_MEMORY * total:
        return Verdict(words.MEMORY_PRESSURE, TRUE, "LittleAvailable", f"{100 * available / total:.0f} % left: {left}")
    if stalled >= STALLED_PERCENT:
        text = f"in {stalled:.0f} % of the last five minutes everything waited for memory; {left}"
        return Verdict(words.MEMORY_PRESSURE, TRUE, "Stalled", text)
    return _no(words.MEMORY_PRESSURE)


def _limit(machine: Machine, type: str, what: str, used: int | None, most: int | None) -> Verdict:
    if used is None or not most:
        return _unknown(type, machine.unread.get(type, "this kernel does not tell"))
    return _when(type, used >= NEARLY * most, f"{used} of at most {most} {what}", "NearLimit")


# --- clock ------------------------------------------------------------------------------------------------------------


def _clock(machine: Machine) -> Verdict:
    """Our clock beside those of others: parties that every node asks anyway, none of which is trusted alone."""
    if not machine.readings:
        return _unknown(words.CLOCK_SKEWED, machine.unread.get("clock", "nobody told the time"))
    low, high, votes = apart(machine.readings)
    evidence = _listed(
        f"{reading.of} said {_moment(reading.told)} when it was {_moment(reading.received)} here" for reading in machine.readings
    )  # fmt: skip
    if 2 * votes <= len(machine.readings):
        return _unknown(words.CLOCK_SKEWED, f"those who told the time do not agree: {evidence}")
    off = low if low > 0 else high if high < 0 else 0.0
    if abs(off) < MOST_SKEW_SECONDS:
        return _no(words.CLOCK_SKEWED)
    way = "ahead" if off > 0 else "behind"
    who = ", ".join(sorted(reading.of for reading in machine.readings))
    return Verdict(
        words.CLOCK_SKEWED, TRUE, way.capitalize(), f"it is at least {round(abs(off))} s {way} of {who}: {evidence}"
    )


def _jumped(machine: Machine) -> Verdict:
    recent = [jump for jump in machine.jumps if 0 <= machine.at - jump.at < JUMP_TOLD_SECONDS]
    if not recent:
        return _no(words.CLOCK_JUMPED)
    told = _listed(
        f"it was set {'forward' if jump.seconds > 0 else 'back'} by {abs(jump.seconds):.0f} s at {_moment(jump.at)}" for jump in recent
    )  # fmt: skip
    return Verdict(words.CLOCK_JUMPED, TRUE, "Jumped", told)


# --- registry, etcd, certificates -------------------------------------------------------------------------------------


def _registry(machine: Machine) -> Verdict:
    contact = machine.registry
    if contact is None:
        return _unknown(words.REGISTRY_UNAVAILABLE, machine.unread.get("registry", "this agent has no registry"))
    where = f"registry {contact.address}"
    if contact.error:
        reason = "CertificateInvalid" if contact.reached is Reached.CERTIFICATE else "Unreachable"
        return Verdict(words.REGISTRY_UNAVAILABLE, TRUE, reason, f"{where}: {contact.error}")
    if contact.status in (401, 403):
        return Verdict(
            words.REGISTRY_UNAVAILABLE, TRUE, "CredentialsRefused", f"{where} answered {contact.status} to this agent's credentials"
        )  # fmt: skip
    return _when(
        words.REGISTRY_UNAVAILABLE, contact.status >= 500, f"{where} answered {contact.status}", reason="ServerError"
    )


def _etcd(machine: Machine) -> Verdict:
    if not machine.etcd:
        return _unknown(words.ETCD_MEMBER_UNREACHABLE, machine.unread.get("etcd", "this agent's store has no members"))
    away = [contact for contact in machine.etcd if contact.error]
    told = _listed(f"{contact.address}: {contact.error}" for contact in away)
    return _when(words.ETCD_MEMBER_UNREACHABLE, bool(away), told, "Unreachable")


def _certificates(machine: Machine) -> Verdict:
    type, now = words.CERTIFICATE_EXPIRING, machine.at
    own, disk = machine.own_certificate, machine.disk_certificate
    shown = [one for one in (own, *machine.certificates) if one is not None]
    if not shown:
        return _unknown(type, machine.unread.get("certificates", "no certificate is used"))
    early = [one for one in shown if now < one.not_before]
    if early:
        return Verdict(type, TRUE, "NotYetValid", _listed(f"{one.of} begins {_day(one.not_before)}" for one in early))
    over = [one for one in shown if now >= one.not_after]
    soon = [one for one in shown if one not in over and one.not_after - now < SOON_DAYS * DAY_SECONDS]
    if own in (*over, *soon) and own is not None and disk is not None and _outlives(disk, own, now):
        text = f"{own.of} in use ends {_day(own.not_after)}; the one on disk ends {_day(disk.not_after)}"
        return Verdict(type, TRUE, "RestartNeeded", text)
    if over:
        return Verdict(type, TRUE, "Expired", _listed(f"{one.of} ended {_day(one.not_after)}" for one in over))
    return _when(type, bool(soon), _listed(f"{one.of} ends {_day(one.not_after)}" for one in soon), "Expiring")


def _outlives(one: Certificate, other: Certificate, now: float) -> bool:
    return one.not_before <= now and one.not_after > other.not_after


# --- packets ----------------------------------------------------------------------------------------------------------


def _switch(machine: Machine, type: str, name: str, on: bool | None) -> Verdict:
    if on is None:
        return _unknown(type, machine.unread.get(type, "not read"))
    return _when(type, not on, f"{name} is 0", "Off")


def _drops(machine: Machine) -> Verdict:
    if machine.drops is None:
        return _unknown(words.POD_TRAFFIC_DROPPED, machine.unread.get("firewall", "not read"))
    told = _listed(f"chain {drop.chain}: {drop.rule} ends packets {drop.way}" for drop in machine.drops)
    reason = "PolicyDrop" if machine.drops and all(drop.policy for drop in machine.drops) else "Rule"
    return _when(words.POD_TRAFFIC_DROPPED, bool(machine.drops), told, reason)


# --- containers -------------------------------------------------------------------------------------------------------


def _parts(known: Known, machine: Machine) -> Verdict:
    """Containers of the platform that are there and not up."""
    if machine.containers is None or known.engine_trouble is not None:
        return _unknown(words.PART_DOWN, machine.unread.get("containers", "the Engine does not answer"))
    parts = {one.name: one for one in machine.containers if PART_LABEL in one.labels}
    down = [
        one
        for name, one in sorted(parts.items())
        if one.state in DOWN_STATES and not name.endswith(REPLACED) and name + REPLACED not in parts
    ]
    states = ", ".join(
        f"{one.name} is {one.state}" + (f" (exit code {one.exit_code})" if one.exit_code is not None else "") for one in down
    )  # fmt: skip
    paused = bool(down) and all(one.state == "paused" for one in down)
    return _when(
        words.PART_DOWN,
        bool(down),
        f"{_named(one.name for one in down)}: {states}",
        "Paused" if paused else "NotRunning",
    )


def _strangers(known: Known, machine: Machine) -> Verdict:
    if machine.containers is None or known.engine_trouble is not None:
        return _unknown(words.STRANGERS, machine.unread.get("containers", "the Engine does not answer"))
    strange: dict[str, str] = {}
    for one in machine.containers:
        if why := _strange(one.labels, NETWORK in one.addresses, known.node):
            where = f" at {one.addresses[NETWORK]}" if one.addresses.get(NETWORK) else ""
            strange[one.name] = f"{why}{where}"
    names = sorted(strange)
    told = "; ".join(f"{name} {strange[name]}" for name in names[:MOST_NAMED])
    return _when(words.STRANGERS, bool(strange), f"{_named(names)}: {told}", "NotOurs")


def _strange(labels: Mapping[str, str], on_network: bool, node: str) -> str:
    pod, owner = labels.get(LABEL_POD), labels.get(LABEL_NODE)
    if pod is None:
        return f"is on network {NETWORK} and is no pod," if on_network else ""
    if owner != node:
        return f"is labelled as a pod of node {owner or '(none)'}"
    try:
        PodId.parse(pod)
    except ValueError:
        return f"is labelled {LABEL_POD}={pod!r}, which names no pod"
    return ""


# --- words ------------------------------------------------------------------------------------------------------------


def _no(type: str) -> Verdict:
    return Verdict(type, FALSE)


def _unknown(type: str, why: str) -> Verdict:
    return Verdict(type, UNKNOWN, "NotRead", why)


def _when(type: str, holds: bool, message: str, reason: str = "Found") -> Verdict:
    return Verdict(type, TRUE, reason, message) if holds else _no(type)


def _listed(texts: Iterable[str]) -> str:
    all_of_them = list(texts)
    more = len(all_of_them) - MOST_NAMED
    return "; ".join(all_of_them[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _named(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:MOST_NAMED])


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def told_once(file_systems: Sequence[FileSystem]) -> tuple[FileSystem, ...]:
    """What lies on the same file system is one: it is told once, under all that it holds.

    Device numbers do not say it (a container's root is an overlay on the disk), sizes do: two disks of one size are not equally full.
    """
    found: list[FileSystem] = []
    for one in file_systems:
        same = next((other for other in found if _same(other, one)), None)
        if same is None:
            found.append(one)
        else:
            found[found.index(same)] = replace(same, holds=f"{same.holds}, {one.holds}")
    return tuple(found)


def _same(one: FileSystem, other: FileSystem) -> bool:
    sizes = (one.total_bytes, one.inodes, one.read_only) == (other.total_bytes, other.inodes, other.read_only)
    return sizes and abs(one.free_bytes - other.free_bytes) * 1000 <= one.total_bytes
