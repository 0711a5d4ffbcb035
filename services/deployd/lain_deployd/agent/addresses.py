"""Which address the next pod gets: never one that somebody may still send to. Pure; the picture it works on is kept on disk.

An address is free when no ``endpoints`` and nothing on this node names it, it has rested for the quarantine, and every member router has
applied a table that no longer holds it. The one that rested longest comes first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv4Network

from lain_shared.model.route import Endpoints, RouterMember, RouterState
from lain_shared.records import Stored


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of an address that was in use."""

    used: bool = True
    """Something on this node has it."""
    named: bool = False
    """``endpoints`` name it."""
    free_since: float = 0.0
    """When both ended (seconds since the epoch)."""
    removal_revision: int = 0
    """Routers at this revision of ``endpoints`` or later no longer know it; 0: they never did."""
    quiet: bool = False
    """What has it listens on no port: no router can know it."""


@dataclass(frozen=True, slots=True)
class AddressBook:
    """The addresses of one block that were ever in use."""

    block: str = ""
    past: Mapping[str, Past] = field(default_factory=dict)

    def seen(
        self, *, used: Iterable[str], named: Iterable[str], revision: int, now: float, quiet: Iterable[str] = ()
    ) -> AddressBook:
        """The book after a look around. ``revision``: the one up to which ``named`` is known. ``quiet``: of the used, those without a port.

        ``endpoints`` may have named an address only while nobody looked: what had a port was perhaps known to routers when it went.
        """
        block = IPv4Network(self.block)
        now_used = {address for address in used if _within(address, block)}
        now_named = {address for address in named if _within(address, block)}
        now_quiet = frozenset(quiet)
        past = dict(self.past)
        for address in {*past, *now_used, *now_named}:
            before = past.get(address)
            state = before or Past(used=False)
            in_use, is_named = address in now_used, address in now_named
            is_quiet = address in now_quiet if in_use else state.quiet
            if before is not None and (before.used, before.named, before.quiet) == (in_use, is_named, is_quiet):
                continue
            if (state.named and not is_named) or (state.used and not in_use and not state.quiet):
                state = replace(state, removal_revision=revision)
            if (state.used or state.named) and not (in_use or is_named):
                state = replace(state, free_since=now)
            past[address] = replace(state, used=in_use, named=is_named, quiet=is_quiet)
        return self if past == self.past else replace(self, past=past)

    def taken(self, address: str) -> AddressBook:
        """The book after ``address`` was given out."""
        return replace(self, past={**self.past, address: replace(self.past.get(address) or Past(), used=True)})

    def free(self, *, now: float, quarantine_seconds: float, applied_revision: float) -> tuple[str, ...]:
        """The addresses that may be given out now, in the order to do so. ``applied_revision``: what every member router has applied."""
        if not self.block:
            return ()
        found: list[tuple[float, int, str]] = []
        for number, address in enumerate(usable(self.block)):
            state = self.past.get(address)
            if state is None:
                found.append((0.0, number, address))
            elif not (state.used or state.named) and _rested(state, now, quarantine_seconds, applied_revision):
                found.append((state.free_since, number, address))
        return tuple(address for _, _, address in sorted(found))

    def held_for(self, applied_revision: float, *, now: float, quarantine_seconds: float) -> int:
        """How many addresses would be free, had a router of this ``applied_revision`` applied more."""
        return sum(
            not (state.used or state.named)
            and _rested(state, now, quarantine_seconds, math.inf)
            and not _rested(state, now, quarantine_seconds, applied_revision)
            for state in self.past.values()
        )


@lru_cache(maxsize=4096)
def _within(address: str, block: IPv4Network) -> bool:
    try:
        return IPv4Address(address) in block
    except ValueError:
        return False


def _rested(state: Past, now: float, quarantine_seconds: float, applied_revision: float) -> bool:
    """Distance, not difference: a clock set back by less than the quarantine must not cut it short."""
    known_to_none = not state.removal_revision or state.removal_revision <= applied_revision
    return abs(now - state.free_since) >= quarantine_seconds and known_to_none


@cache
def usable(block: str) -> tuple[str, ...]:
    """Addresses of a block that pods may have: all but the network's, the bridge's own (the first) and the broadcast's."""
    return tuple(map(str, IPv4Network(block).hosts()))[1:]


class Named:
    """The addresses of one block that ``endpoints`` name. There may be ten thousands elsewhere: only what changed is looked at."""

    def __init__(self) -> None:
        self._block = ""
        self._known: dict[str, Stored[Endpoints]] = {}
        self._here: dict[str, frozenset[str]] = {}
        """Key → the addresses of the block in it, if there are any."""

    def within(self, block: str, endpoints: Mapping[str, Stored[Endpoints]]) -> frozenset[str]:
        """Those of ``block`` that any of ``endpoints`` (key → record) names."""
        if block != self._block:
            self._block, self._known, self._here = block, {}, {}
        for key in [key for key in self._here if key not in endpoints]:
            del self._here[key]
        network = IPv4Network(block)
        for key, stored in endpoints.items():
            if self._known.get(key) is stored:
                continue
            here = frozenset(address for address in stored.value.addresses if _within(address, network))
            if here:
                self._here[key] = here
            else:
                self._here.pop(key, None)
        self._known = dict(endpoints)
        return frozenset().union(*self._here.values())


def applied_by_all(members: Iterable[RouterMember], states: Mapping[str, RouterState]) -> float:
    """The revision of ``endpoints`` that every member router has applied."""
    return min((applied_by(member.router, states) for member in members), default=math.inf)


def applied_by(router: str, states: Mapping[str, RouterState]) -> int:
    """The revision of ``endpoints`` that this router has applied; one that says nothing may be arbitrarily old."""
    return states[router].applied_revision if router in states else -1
