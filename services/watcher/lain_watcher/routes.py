"""What nginx should route by, out of what the store says (pure).

Three rules stand here. An app with bad data is *quarantined*: its routes and options freeze at the last good ones, its addresses never
do; when its addresses themselves cannot be used, it is listed as *not applied*. Of two procs that claim the same route the older one
keeps it. And a snapshot that suddenly lost most hosts is *held* for a minute, for it is more likely a fault than a wish.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lain_shared.keys import ENDPOINTS
from lain_shared.model.route import Endpoint, Endpoints, ProxyOptions, Route
from lain_shared.records import Stored
from lain_watcher.table import Certificate, ProcEntry, ProcKey, Table

GUARD_SECONDS = 60.0
GUARD_LEAST_HOSTS = 4
MAX_PATH = 1024
MAX_TIMEOUT_SECONDS = 86_400
MAX_BODY_BYTES = 1 << 50
MAX_SHOWN = 80

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*\Z")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+\Z")


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known: every readable ``endpoints`` record, those that cannot be read, up to which store revision; certificates, settings."""

    revision: int
    endpoints: Mapping[str, Stored[Endpoints]]
    bad: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    https_port: int = 443


@dataclass(frozen=True, slots=True)
class Guard:
    """A sudden loss that is being held: since when (seconds), and which hosts."""

    since: float
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The table to serve from, and what had to be kept out of it."""

    table: Table
    quarantined: Mapping[str, str] = field(default_factory=dict)
    """app → why its routes or options are not as it asked."""
    not_applied: tuple[str, ...] = ()
    guard: Guard | None = None


def plan(
    picture: Picture, last: Table | None, *, now: float, guard: Guard | None = None, accept_loss: bool = False
) -> Verdict:
    """The table for ``picture``. ``last`` is the table in force (None: there never was one), ``guard`` what the last plan held.

    ``accept_loss``: an operator says that the hosts are meant to be gone.
    """
    before: Mapping[ProcKey, ProcEntry] = last.procs if last else {}
    reasons: dict[str, list[str]] = {}
    wanted, unusable = _entries(picture, before, reasons)
    procs, frozen = _freeze(wanted, before, reasons)
    procs = _settle(procs, frozen, reasons)
    table = Table(
        revision=picture.revision,
        procs=procs,
        certificates=dict(picture.certificates),
        domains=picture.domains,
        https_port=picture.https_port,
    )
    quarantined = {app: "; ".join(reasons[app]) for app in sorted(reasons)}
    lost = _sudden_loss(table, last)
    if not lost or last is None or accept_loss:
        return Verdict(table, quarantined, tuple(sorted(unusable)))
    guard = Guard(now if guard is None else guard.since, lost)
    if now - guard.since >= GUARD_SECONDS:
        return Verdict(table, quarantined, tuple(sorted(unusable)))
    held, apps = _hold(table, last, frozenset(lost))
    return Verdict(held, quarantined, tuple(sorted(unusable | apps)), guard)


# --- one app's data -----------------------------------------------------------------------------------------------------


def _entries(
    picture: Picture, before: Mapping[ProcKey, ProcEntry], reasons: dict[str, list[str]]
) -> tuple[dict[ProcKey, ProcEntry], set[str]]:
    """Each proc as asked for, and the apps whose addresses cannot be used. ``reasons`` gets why routes or options cannot."""
    found: dict[ProcKey, ProcEntry] = {}
    unusable: set[str] = set()
    bad = dict(picture.bad)
    for key, stored in sorted(picture.endpoints.items()):
        record = stored.value
        if ENDPOINTS.parse(key) != (record.app, record.proc):
            bad[key] = f"it says that it is {record.app}.{record.proc}"
            continue
        if (faults := faults_of(record)) and key not in picture.bad:
            reasons.setdefault(record.app, []).extend(f"{record.proc}: {fault}" for fault in faults)
        entry = ProcEntry(
            app=record.app,
            proc=record.proc,
            routes=record.routes,
            options=record.proxy,
            release=record.release,
            created=stored.entry.create_revision,
        )
        if fault := address_fault(record):
            unusable.add(record.app)
            reasons.setdefault(record.app, []).append(f"{record.proc}: {fault}")
            old = before.get(entry.key, entry)
            entry = replace(entry, ready=old.ready, suspect=old.suspect, draining=old.draining)
        else:
            entry = replace(
                entry,
                ready=_peers(record.ready, record.port),
                suspect=_peers(record.suspect, record.port),
                draining=tuple(sorted({endpoint.address for endpoint in record.draining})),
            )
        found[entry.key] = entry
    for key, why in sorted(bad.items()):
        try:
            app, proc = ENDPOINTS.parse(key)
        except ValueError:
            continue  # not a key of the family's shape: it names no app
        unusable.add(app)
        reasons.setdefault(app, []).append(f"{proc}: {why}")
        if (app, proc) not in found and (app, proc) in before:
            found[app, proc] = before[app, proc]
    return found, unusable


def _peers(endpoints: Iterable[Endpoint], port: int) -> tuple[str, ...]:
    return tuple(f"{endpoint.address}:{endpoint.port or port}" for endpoint in sorted(endpoints))


def _freeze(
    wanted: Mapping[ProcKey, ProcEntry], before: Mapping[ProcKey, ProcEntry], reasons: Mapping[str, Sequence[str]]
) -> tuple[dict[ProcKey, ProcEntry], frozenset[str]]:
    """Quarantined apps keep the routes and options they had; one that never had any has none."""
    frozen = frozenset(reasons)
    procs: dict[ProcKey, ProcEntry] = {}
    for key, entry in wanted.items():
        old = before.get(key, ProcEntry(*key))
        procs[key] = replace(entry, routes=old.routes, options=old.options) if entry.app in frozen else entry
    return procs, frozen


def _settle(
    procs: Mapping[ProcKey, ProcEntry], frozen: frozenset[str], reasons: dict[str, list[str]]
) -> dict[ProcKey, ProcEntry]:
    """One owner a route: live data before frozen, then the older ``endpoints`` key. The loser lacks that route only."""
    owners: dict[tuple[str, str], ProcEntry] = {}
    settled: dict[ProcKey, ProcEntry] = {}
    for entry in sorted(procs.values(), key=lambda entry: (entry.app in frozen, entry.created, entry.key)):
        kept = []
        for route in dict.fromkeys(entry.routes):
            owner = owners.setdefault((route.host, route.path), entry)
            if owner is entry:
                kept.append(route)
            else:
                reasons.setdefault(entry.app, []).append(
                    f"{entry.proc}: {route} belongs to {owner.app} (proc {owner.proc}), which claimed it first"
                )
        settled[entry.key] = replace(entry, routes=tuple(kept))
    return settled


def faults_of(record: Endpoints) -> tuple[str, ...]:
    """What is wrong with a proc's routes and options, in words; empty: nothing."""
    found = [fault for route in record.routes for fault in _route_faults(route)]
    given = Counter((route.host, route.path) for route in set(record.routes))
    found += [f"{shown(host + path)} is given twice, and not alike" for (host, path), n in given.items() if n > 1]
    return (*found, *_option_faults(record.proxy))


def shown(text: str) -> str:
    """What an app gave, for people: quoted, and not more of it than helps."""
    return repr(text) if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]!r}…"


def _route_faults(route: Route) -> Iterable[str]:
    if len(route.host) > 253 or not _HOST.match(route.host):
        yield f"{shown(route.host)} is not a host name"
    if route.path == "/":
        return
    segments = route.path.split("/")
    if len(route.path) > MAX_PATH or not _PATH.match(route.path) or "." in segments or ".." in segments:
        yield f"{shown(route.path)} is not a path (/x/y, no trailing slash)"


def _option_faults(options: ProxyOptions) -> Iterable[str]:
    timeout, body = options.read_timeout_seconds, options.max_body_bytes
    if timeout is not None and not 1 <= timeout <= MAX_TIMEOUT_SECONDS:
        yield f"read_timeout_seconds {timeout} is not within 1..{MAX_TIMEOUT_SECONDS}"
    if body is not None and not 0 <= body <= MAX_BODY_BYTES:
        yield f"max_body_bytes {body} is not within 0..{MAX_BODY_BYTES}"


def address_fault(record: Endpoints) -> str:
    """Why a proc's addresses cannot be used, "" when they can."""
    for endpoint in (*record.ready, *record.suspect, *record.draining):
        try:
            address = ipaddress.IPv4Address(endpoint.address)
        except ValueError:
            return f"{shown(endpoint.address)} is not an IPv4 address"
        if address.is_multicast or address.is_unspecified:
            return f"{endpoint.address} cannot be an app's address"
        port = endpoint.port or record.port
        if not 1 <= port <= 65535:
            return f"{port} is not a port"
    return ""


# --- the guard ----------------------------------------------------------------------------------------------------------


def _sudden_loss(table: Table, last: Table | None) -> tuple[str, ...]:
    """The hosts that are gone, if that is more than half of at least ``GUARD_LEAST_HOSTS``."""
    had = last.hosts if last else frozenset()
    lost = had - table.hosts
    return tuple(sorted(lost)) if len(had) >= GUARD_LEAST_HOSTS and 2 * len(lost) > len(had) else ()


def _hold(table: Table, last: Table, lost: frozenset[str]) -> tuple[Table, frozenset[str]]:
    """The table with the lost hosts still in it, and the apps kept so. Its revision stays: removals are not applied."""
    procs = dict(table.procs)
    apps = set()
    for key, old in last.procs.items():
        kept = tuple(route for route in old.routes if route.host in lost)
        if not kept:
            continue
        apps.add(old.app)
        now = procs.get(key)
        procs[key] = replace(old, routes=kept) if now is None else replace(now, routes=(*now.routes, *kept))
    return replace(table, procs=procs, revision=min(last.revision, table.revision)), frozenset(apps)
