"""Use cases that only look: what people are shown, put together from the store (one app) or from memory (lists)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from lain_console import views
from lain_console.explain import Facts, explain
from lain_console.losses import Losses
from lain_console.mirrors import Mirrors
from lain_console.operations.candidate import domains
from lain_console.state import Scene, State
from lain_sdk.api_types import (
    AppView,
    ClusterView,
    EnvView,
    ExplainView,
    OperationView,
    ProcView,
    ReleaseView,
    RepoView,
)
from lain_sdk.manifest import default_hosts, load
from lain_shared import platform_look
from lain_shared.deployd_views import NodeView
from lain_shared.errors import LainError, NotFound, Unavailable
from lain_shared.model.app import HistoryRecord, Operation, Release
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import PodId, PodState
from lain_shared.model.status import InstanceStatus
from lain_shared.platform_view import PlatformView
from lain_shared.tokens import Access, Principal

RUNNING = (PodState.RUNNING, PodState.BACKOFF, PodState.EXITED, PodState.STOPPING)


@dataclass(frozen=True, slots=True)
class Located:
    """Where a pod is, and the agent that answers for it."""

    pod: PodId
    node: str
    agent_url: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Views of everything."""

    state: State
    mirrors: Mirrors
    losses: Losses
    version: str
    now: Callable[[], float] = field(repr=False)

    async def cluster(self) -> ClusterView:
        config, (nodes, _), (alive, _) = await asyncio.gather(
            self.state.cluster_config(), self.state.nodes.list_readable(), self.state.alive.list_readable()
        )
        value = config.value
        return ClusterView(
            value.name,
            value.domain,
            value.extra_domains,
            value.network,
            value.router_http_port,
            value.router_https_port,
            value.registry_push,
            self.version,
            self.mirrors.switches_on(),
            len(alive),
            len(nodes),
        )

    async def platform(self) -> PlatformView:
        """Answers while etcd is away: that is what is asked."""
        store = self.state.store
        members, leader, (nodes, unreadable) = await asyncio.gather(
            platform_look.etcd_members(store), platform_look.leader(store), self._nodes()
        )
        return PlatformView(
            daemon="console",
            version=self.version,
            now=self.now(),
            leader=leader,
            store_trouble=self.mirrors.trouble,
            etcd=members,
            unreadable={**self.mirrors.unreadable, **unreadable},
            nodes=nodes,
        )

    async def _nodes(self) -> tuple[tuple[NodeView, ...], Mapping[str, str]]:
        state = self.state
        try:
            async with asyncio.timeout(platform_look.LEADER_SECONDS):
                (nodes, bad), (alive, _), (states, worse) = await asyncio.gather(
                    state.nodes.list_readable(), state.alive.list_readable(), state.node_states.list_readable()
                )
        except (LainError, TimeoutError):
            return (), {}
        present = {each.value.node: each.value for each in alive}
        told = {each.value.node: each.value for each in states}
        found = tuple(NodeView(each.value, present.get(each.value.name), told.get(each.value.name)) for each in nodes)
        return found, {**bad, **worse}

    # --- registrations ------------------------------------------------------------------------------------------------

    async def repos(self, caller: Principal) -> tuple[RepoView, ...]:
        (apps, _), (hosts, _) = await asyncio.gather(self.state.apps.list_readable(), self.state.hosts.list_readable())
        mine = [stored.value for stored in apps if caller.may(Access.READ, stored.value.name)]
        releases = await asyncio.gather(*(self._current(app.name, app.release) for app in mine))
        return tuple(
            views.repo_view(app, release.meta_version if release else "", [stored.value for stored in hosts])
            for app, release in zip(mine, releases, strict=True)
        )

    async def repo(self, app: str) -> RepoView:
        stored = await self.state.app(app)
        (hosts, _), release = await asyncio.gather(
            self.state.hosts.list_readable(), self._current(app, stored.value.release)
        )
        return views.repo_view(stored.value, release.meta_version if release else "", [each.value for each in hosts])

    async def current_version(self, app: str) -> str:
        stored = await self.state.app(app)
        release = await self._current(app, stored.value.release)
        return release.meta_version if release is not None else ""

    # --- apps ---------------------------------------------------------------------------------------------------------

    async def apps(self, caller: Principal) -> tuple[AppView, ...]:
        """Every app the caller may see that is deployed or has something under way."""
        config = (await self.state.cluster_config()).value
        scenes = [
            scene
            for scene in self.mirrors.scenes()
            if caller.may(Access.READ, scene.app.value.name)
            and (scene.desired or scene.operation is not None or scene.app.value.release is not None)
        ]
        releases = await asyncio.gather(
            *(self._current(scene.app.value.name, scene.app.value.release) for scene in scenes)
        )
        return tuple(
            views.app_view(
                scene,
                release,
                config,
                self.now(),
                defaults=default_hosts(scene.app.value.name, domains(config)),
                pods=False,
            )
            for scene, release in zip(scenes, releases, strict=True)
        )

    async def app(self, name: str) -> AppView:
        scene = await self.state.scene(name)
        config, release, last, operation_version = await asyncio.gather(
            self.state.cluster_config(),
            self._current(name, scene.app.value.release),
            self.history(name),
            self._version_of(scene),
        )
        view = views.app_view(
            scene,
            release,
            config.value,
            self.now(),
            defaults=default_hosts(name, domains(config.value)),
            last=last[0] if last else None,
            operation_version=operation_version,
        )
        if view.operation is None:
            return view
        return replace(view, operation=replace(view.operation, loss=self.losses.of(name, view.operation.id)))

    async def proc(self, app: str, proc: str) -> ProcView:
        view = await self.app(app)
        found = next((each for each in view.procs if each.name == proc), None)
        if found is None:
            names = [each.name for each in view.procs]
            raise NotFound(
                f"app {app!r} has no proc {proc!r}",
                why=f"its procs: {', '.join(names)}" if names else "it is not deployed",
                evidence={"procs": names},
                code="proc_not_found",
            )
        return found

    async def operation(self, app: str) -> OperationView:
        await self.state.app(app)
        stored, holder = await asyncio.gather(self.state.operations.get(app), self.state.holders.get(app))
        if stored is None:
            raise no_operation(app)
        release = await self._current(app, stored.value.release)
        version = release.meta_version if release is not None else ""
        view = views.operation_view(stored.value, holder.value if holder is not None else None, self.now(), version)
        return replace(view, loss=self.losses.of(app, stored.value.id))

    async def operation_of(self, operation: Operation) -> OperationView:
        """The view of an operation that was just written."""
        holder, release = await asyncio.gather(
            self.state.holders.get(operation.app), self._current(operation.app, operation.release)
        )
        version = release.meta_version if release is not None else ""
        return views.operation_view(operation, holder.value if holder is not None else None, self.now(), version)

    async def _version_of(self, scene: Scene) -> str:
        if scene.operation is None:
            return ""
        release = await self._current(scene.app.value.name, scene.operation.value.release)
        return release.meta_version if release is not None else ""

    # --- the past -----------------------------------------------------------------------------------------------------

    async def releases(self, app: str) -> tuple[ReleaseView, ...]:
        stored = await self.state.app(app)
        found = await self.state.releases.list(app)
        return tuple(views.release_view(each.value, stored.value.release) for each in reversed(found))

    async def release(self, app: str, number: int, caller: Principal) -> ReleaseView:
        """Values of the environment may be secrets: who may not deploy sees their names."""
        stored = await self.state.app(app)
        detail = views.Detail.WHOLE if caller.may(Access.DEPLOY, app) else views.Detail.NAMES
        return views.release_view(await self.state.release(app, number), stored.value.release, detail)

    async def history(self, app: str) -> tuple[HistoryRecord, ...]:
        """Newest first."""
        await self.state.app(app)
        return tuple(self.losses.with_loss(stored.value) for stored in reversed(await self.state.history.list(app)))

    async def history_record(self, app: str, operation: str) -> HistoryRecord:
        await self.state.app(app)
        stored = await self.state.history.get(app, operation)
        if stored is None:
            raise NotFound(
                f"app {app!r} has no ended operation {operation!r}",
                next=f"see what there is: lain history {app}",
                code="operation_not_found",
            )
        return self.losses.with_loss(stored.value)

    async def env(self, app: str) -> EnvView:
        stored = await self.state.app(app)
        release = await self._current(app, stored.value.release)
        return views.env_view(stored.value, release, await self._manifest_env(release) if release is not None else {})

    async def _manifest_env(self, release: Release) -> dict[str, Mapping[str, str]]:
        """proc → what the manifest it is made from sets."""
        found: dict[str, Mapping[str, str]] = {}
        for number in {release.origin_of(each) for each in release.procs}:
            origin = release if number == release.number else await self._current(release.app, number)
            procs = load(origin.manifest, instance=True).procs if origin is not None else {}
            mine = {each.proc for each in release.procs if release.origin_of(each) == number}
            found.update({name: dict(procs[name].env) for name in mine & procs.keys()})
        return found

    # --- why ----------------------------------------------------------------------------------------------------------

    async def explain(self, app: str) -> ExplainView:
        state = self.state
        scene = await state.scene(app)
        config, history, (routers, _), (switches, _) = await asyncio.gather(
            state.cluster_config(), self.history(app), state.routers.list_readable(), state.switches.list_readable()
        )
        (nodes, _), (alive, _), (states, _) = await asyncio.gather(
            state.nodes.list_readable(), state.alive.list_readable(), state.node_states.list_readable()
        )
        facts = Facts(
            scene,
            self.now(),
            history,
            {each.value.name: each.value for each in nodes},
            {each.value.node: each.value for each in alive},
            {each.value.node: each.value for each in states},
            [each.value for each in routers],
            [each.value for each in switches],
            self._urls(scene, config.value),
        )
        return explain(facts)

    def _urls(self, scene: Scene, config: ClusterConfig) -> tuple[str, ...]:
        return tuple(
            views.route_view(route, config).url for stored in scene.desired.values() for route in stored.value.routes
        )

    # --- where --------------------------------------------------------------------------------------------------------

    async def locate(self, app: str, proc: str, instance: int) -> Located:
        """The pod that stands for an instance now, and its agent. Raises ``NotFound``, or ``Unavailable`` when its node is away."""
        await self.state.app(app)
        status = await self.state.status.get(app, proc)
        pods = [] if status is None else [each for each in status.value.instances if each.instance == instance]
        if not pods:
            known = [] if status is None else sorted({each.instance for each in status.value.instances})
            raise NotFound(
                f"{app} has no running instance {proc} {instance}",
                why=f"instances that exist: {', '.join(map(str, known))}" if known else f"{proc} has no pods",
                next=f"lain ps {app}",
                code="instance_not_found",
            )
        best = max(pods, key=_preference)
        alive = await self.state.alive.get(best.node)
        if alive is None:
            raise Unavailable(
                f"node {best.node}, where {proc} {instance} of {app} is, is away",
                why="its agent is not present",
                next=f"lainctl node inspect {best.node}",
                code="node_away",
            )
        return Located(PodId(app, proc, instance, best.generation), best.node, alive.value.agent_url)

    async def _current(self, app: str, number: int | None) -> Release | None:
        if number is None:
            return None
        stored = await self.state.releases.get(app, number)
        return stored.value if stored is not None else None


def _preference(pod: InstanceStatus) -> tuple[bool, bool, bool, int]:
    """Of several pods of one instance: one that has a container, is wanted, is ready; the newest."""
    return pod.state in RUNNING, pod.wanted, pod.ready, pod.generation


def no_operation(app: str) -> NotFound:
    return NotFound(f"nothing is under way on {app}", next=f"see the past: lain history {app}", code="no_operation")
