"""Who owns a name: which hosts and paths a release takes, whether it may, and what is given back. Pure.

A host belongs to the app that claimed it first (its default hosts to whoever registered its name); the owner may let other apps claim
paths on it. A path of a host belongs to one proc of one app.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lain_console.state import Claims
from lain_sdk.api_types import Problem
from lain_shared import keys
from lain_shared.model.pod import Desired
from lain_shared.model.route import HostClaim, RouteClaim
from lain_shared.records import Stored, encode
from lain_shared.store import ABSENT, Delete, Expectation, ModRevision, Put, Write


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """What to write, on which expectations; or why it may not be."""

    refusals: tuple[Problem, ...] = ()
    expectations: tuple[Expectation, ...] = ()
    writes: tuple[Write, ...] = ()


def routes_of(procs: Iterable[Desired]) -> dict[tuple[str, str], str]:
    """(host, path) → proc, of what these procs are given."""
    return {(route.host, route.path): desired.proc for desired in procs for route in desired.routes}


def clashes(procs: Iterable[Desired]) -> tuple[Problem, ...]:
    """Two procs of one release that want the same path of the same host."""
    seen: dict[tuple[str, str], str] = {}
    found = []
    for desired in procs:
        for route in desired.routes:
            other = seen.setdefault((route.host, route.path), desired.proc)
            if other != desired.proc:
                found.append(
                    Problem(
                        "route_clash",
                        f"procs {other} and {desired.proc} both want {route}",
                        next="change the mountpoint of one of them in lain.yaml",
                        proc=desired.proc,
                    )
                )
    return tuple(found)


def plan_claims(app: str, procs: Iterable[Desired], claims: Claims, defaults: Collection[str] = ()) -> ClaimPlan:
    """What ``app`` must claim so that ``procs`` may have their routes. ``claims`` holds all there is on the hosts concerned.

    ``defaults``: the app's default hosts, which stay its own as long as it is registered.
    """
    procs = tuple(procs)
    refusals = list(clashes(procs))
    expectations: list[Expectation] = []
    writes: list[Write] = []
    wanted = routes_of(procs)
    for host in sorted({host for host, _ in wanted}):
        key = keys.HOSTS.key(host)
        stored = claims.hosts.get(host)
        if host in claims.unreadable_hosts:
            refusals.append(_unreadable(host, key))
            continue
        if stored is None:
            expectations.append(ModRevision(key, ABSENT))
            claim = HostClaim(host, app, default=host in defaults)
            writes.append(Put(key, encode(claim, keys.HOSTS.version)))
            continue
        expectations.append(ModRevision(key, stored.entry.mod_revision))
        if stored.value.owner == app:
            continue
        if app not in stored.value.guests:
            refusals.append(_taken(host, stored.value.owner, app))
        elif any(route not in claims.routes for route in wanted if route[0] == host):
            writes.append(
                Put(key, stored.entry.value)
            )  # so that its owner cannot give the host back at the same moment
    for (host, path), proc in sorted(wanted.items()):
        key = keys.ROUTES.key(host, path)
        taken = claims.routes.get((host, path))
        if (host, path) in claims.unreadable_routes:
            refusals.append(_unreadable(host + path.rstrip("/"), key))
            continue
        if taken is not None and taken.value.app != app:
            owner = claims.hosts.get(host)
            if owner is None or owner.value.owner == app or app in owner.value.guests:
                refusals.append(_taken(host + path.rstrip("/"), taken.value.app, app))
            continue
        expectations.append(ModRevision(key, taken.entry.mod_revision if taken is not None else ABSENT))
        if taken is None or taken.value.proc != proc:
            writes.append(Put(key, encode(RouteClaim(host, path, app, proc), keys.ROUTES.version)))
    return ClaimPlan(tuple(refusals), tuple(expectations), tuple(writes))


def _taken(name: str, owner: str, app: str) -> Problem:
    return Problem(
        "host_taken",
        f"{name} belongs to app {owner!r}",
        why="a host name or path leads to one app only",
        next=f"choose another mountpoint, or ask the owner of {owner!r} to let {app!r} in as a guest of its host",
    )


def _unreadable(name: str, key: str) -> Problem:
    return Problem(
        "claim_unreadable",
        f"{name} is taken, and by whom cannot be read",
        why=f"the record {key} is damaged, or was written by a newer LAIN",
        next="an operator upgrades this console, or restores that record",
    )


def surplus(app: str, wanted: Mapping[tuple[str, str], str], claims: Claims) -> tuple[RouteClaim, ...]:
    """Paths that ``app`` claims and has no more use for."""
    return tuple(
        stored.value
        for route, stored in sorted(claims.routes.items())
        if stored.value.app == app and route not in wanted
    )


def settle(app: str, wanted: Mapping[tuple[str, str], str], claims: Claims) -> ClaimPlan:
    """Make the claims of ``app`` equal to ``wanted``, if they still stand as read. ``claims`` holds every claim there is.

    A host stays claimed while it is a default host of its owner, or while a guest still has a path on it (or somebody unknown has).
    """
    expectations: list[Expectation] = []
    writes: list[Write] = []
    gone = {(claim.host, claim.path) for claim in surplus(app, wanted, claims)}
    for route in sorted(gone):
        expectations.append(_as_read(claims.routes[route]))
        writes.append(Delete(keys.ROUTES.key(*route)))
    for (host, path), proc in sorted(wanted.items()):
        if (host, path) in claims.unreadable_routes:
            continue
        key, stored = keys.ROUTES.key(host, path), claims.routes.get((host, path))
        if stored is None or (stored.value.app == app and stored.value.proc != proc):
            expectations.append(_as_read(stored) if stored is not None else ModRevision(key, ABSENT))
            writes.append(Put(key, encode(RouteClaim(host, path, app, proc), keys.ROUTES.version)))
    in_use = {host for host, _ in wanted} | {host for host, _ in claims.routes.keys() - gone}
    in_use |= {host for host, _ in claims.unreadable_routes}
    for host, claim in sorted(claims.hosts.items()):
        if claim.value.owner == app and not claim.value.default and host not in in_use:
            expectations.append(_as_read(claim))
            writes.append(Delete(keys.HOSTS.key(host)))
    return ClaimPlan((), tuple(expectations), tuple(writes))


def _as_read(stored: Stored[HostClaim] | Stored[RouteClaim]) -> ModRevision:
    return ModRevision(stored.entry.key, stored.entry.mod_revision)
