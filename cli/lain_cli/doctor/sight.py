"""What can be seen of a cluster from here: each API asked, each address tried, all at once, bounded; what failed is part of it."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from lain_cli.config import Phase
from lain_cli.context import Run
from lain_cli.doctor.local import LocalSight, look_through_docker
from lain_shared.contact import Contact, Question, Reached, ask
from lain_shared.errors import LainError, Unavailable
from lain_shared.tls import client_context

if TYPE_CHECKING:
    from lain_sdk.api_types import AppView, ClusterView, WhoamiView
    from lain_sdk.client import Console, Deployd
    from lain_shared.deployd_views import NodeView, PodView, RouterView
    from lain_shared.model.node import Switch
    from lain_shared.platform_view import PlatformView

T = TypeVar("T")

CALL_SECONDS = 10.0
AGAIN_SECONDS = 2.0
"""A router that is behind twice, with this in between, is not just busy with a change."""
AGENT_PORT, WATCHER_PORT = 9520, 9530
MOST_ASKED = 20
"""Nodes asked directly; more would be a crowd."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Everything that was seen. An answer is there, or the error that came instead, or None: it was not asked."""

    phase: Phase
    now: float
    contacts: Mapping[str, Contact] = field(default_factory=dict)
    """``console``, ``deployd``, ``registry``, ``router``, ``router (TLS)`` → how the attempt to talk to it ended."""
    cluster: ClusterView | LainError | None = None
    who: WhoamiView | LainError | None = None
    apps: tuple[AppView, ...] | LainError | None = None
    by_console: PlatformView | LainError | None = None
    by_deployd: PlatformView | LainError | None = None
    switches: tuple[Switch, ...] | LainError | None = None
    routers: tuple[RouterView, ...] | LainError | None = None
    still_behind: frozenset[str] = frozenset()
    """Routers that were behind, and are after a while."""
    pods: tuple[PodView, ...] | LainError | None = None
    agents: Mapping[str, Contact] = field(default_factory=dict)
    """Node without presence → how its agent answered us."""
    watchers: Mapping[str, Contact] = field(default_factory=dict)
    """Node of a router whose watcher is away → how its watcher answered us."""
    local: LocalSight | None = None
    """What Docker shows, if the phase is a local cluster on this machine."""

    @property
    def platform(self) -> PlatformView | None:
        """As the controller sees it, or the console if the controller does not answer."""
        for one in (self.by_deployd, self.by_console):
            if one is not None and not isinstance(one, LainError):
                return one
        return None

    @property
    def nodes(self) -> tuple[NodeView, ...]:
        """As whoever of the two knows any."""
        for one in (self.by_deployd, self.by_console):
            if one is not None and not isinstance(one, LainError) and one.nodes:
                return one.nodes
        return ()


async def look(run: Run) -> Sight:
    """Look at the phase's cluster. Takes seconds, whatever is away; raises only for a configuration that cannot be used."""
    phase = run.phase
    with run.ca_file() as ca:
        tls = client_context(ca=ca)
        contacts, local = await asyncio.gather(
            _contacts(phase, tls), asyncio.to_thread(look_through_docker, run, phase.name)
        )
    answers: dict[str, object] = {}
    await asyncio.gather(_ask_console(run, contacts, answers), _ask_deployd(run, contacts, answers))
    sight = Sight(phase, time.time(), contacts, local=local, **answers)  # type: ignore[arg-type]
    agents, watchers = await asyncio.gather(
        _reach(tls, _without_presence(sight), AGENT_PORT, "agent"),
        _reach(tls, _without_watcher(sight), WATCHER_PORT, "watcher"),
    )
    return Sight(phase, time.time(), contacts, local=local, agents=agents, watchers=watchers, **answers)  # type: ignore[arg-type]


# --- by address -------------------------------------------------------------------------------------------------------


async def _contacts(phase: Phase, tls: ssl.SSLContext) -> dict[str, Contact]:
    wanted: dict[str, Awaitable[Contact]] = {}
    for name in ("console", "deployd"):
        if url := str(getattr(phase, name)):
            parts = urlsplit(url)
            secure = parts.scheme == "https"
            address = f"{parts.hostname}:{parts.port or (443 if secure else 80)}"
            wanted[name] = ask(Question(name, address, "/readyz"), tls if secure else None, body=True)
    if phase.registry:
        wanted["registry"] = _registry(phase.registry, tls)
    if phase.router:
        host = {"Host": f"doctor.{phase.domain}"}
        wanted["router"] = ask(Question("router", f"{phase.router}:{phase.router_http}", "/", host), None)
    found = await asyncio.gather(*wanted.values())
    return dict(zip(wanted, found, strict=True))


async def _registry(address: str, tls: ssl.SSLContext) -> Contact:
    """Over TLS; in clear if it does not speak it. Only whether it answers is asked: its password is used by docker alone."""
    found = await ask(Question("registry", address, "/v2/"), tls)
    if found.reached is Reached.GARBLED:
        plain = await ask(Question("registry", address, "/v2/"), None)
        return plain if plain.reached is Reached.ANSWERED else found
    return found


async def _reach(tls: ssl.SSLContext, nodes: Mapping[str, str], port: int, of: str) -> Mapping[str, Contact]:
    """Node → how ``of`` on it answers; ``nodes``: name → address."""
    asked = dict(list(nodes.items())[:MOST_ASKED])
    found = await asyncio.gather(
        *(ask(Question(of, f"{address}:{port}", "/readyz"), tls, body=True) for address in asked.values())
    )
    return dict(zip(asked, found, strict=True))


def _without_presence(sight: Sight) -> dict[str, str]:
    return {view.node.name: view.node.address for view in sight.nodes if view.alive is None}


def _without_watcher(sight: Sight) -> dict[str, str]:
    if sight.routers is None or isinstance(sight.routers, LainError):
        return {}
    addresses = {view.node.name: view.node.address for view in sight.nodes}
    away = {router.node for router in sight.routers if router.state is None}
    return {node: addresses[node] for node in sorted(away) if node in addresses}


# --- by API -----------------------------------------------------------------------------------------------------------


def _answers(contacts: Mapping[str, Contact], name: str) -> bool:
    return name in contacts and contacts[name].reached is Reached.ANSWERED


async def _tried(call: Awaitable[T]) -> T | LainError:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await call
    except TimeoutError:
        return Unavailable(f"no answer in {CALL_SECONDS:g} s", code="silent")
    except LainError as error:
        return error


async def _gathered(calls: Mapping[str, Awaitable[object]], answers: dict[str, object]) -> None:
    found = await asyncio.gather(*(_tried(call) for call in calls.values()))
    answers.update(zip(calls, found, strict=True))


async def _ask_console(run: Run, contacts: Mapping[str, Contact], answers: dict[str, object]) -> None:
    if not _answers(contacts, "console"):
        return
    try:
        async with run.console() as console:
            await _gathered(_of_console(console), answers)
    except LainError as error:  # the phase's own address cannot be used
        answers["cluster"] = error


def _of_console(console: Console) -> Mapping[str, Awaitable[object]]:
    return {
        "cluster": console.cluster(),
        "who": console.whoami(),
        "apps": console.apps(),
        "by_console": console.platform(),
    }


async def _ask_deployd(run: Run, contacts: Mapping[str, Contact], answers: dict[str, object]) -> None:
    if not _answers(contacts, "deployd"):
        return
    try:
        async with run.deployd() as deployd:
            await _gathered(_of_deployd(deployd), answers)
            answers["still_behind"] = await _still_behind(deployd, answers.get("routers"))
    except LainError as error:
        answers["by_deployd"] = error


def _of_deployd(deployd: Deployd) -> Mapping[str, Awaitable[object]]:
    return {
        "by_deployd": deployd.platform(),
        "switches": deployd.switches(),
        "routers": deployd.routers(),
        "pods": deployd.pods(),
    }


async def _still_behind(deployd: Deployd, routers: object) -> frozenset[str]:
    """Of the routers that are behind, those that have applied nothing since."""
    if not isinstance(routers, tuple):
        return frozenset()
    behind = {one.router: one.state.applied_revision for one in routers if one.behind and one.state is not None}
    if not behind:
        return frozenset()
    await asyncio.sleep(AGAIN_SECONDS)
    again = await _tried(deployd.routers())
    if isinstance(again, LainError):
        return frozenset()
    return frozenset(
        one.router for one in again if one.behind and one.state is not None and behind.get(one.router) == one.state.applied_revision
    )  # fmt: skip
