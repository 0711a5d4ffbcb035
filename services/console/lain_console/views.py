"""What the API shows, put together from what is stored. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import Enum

from lain_console.state import Scene
from lain_sdk.api_types import (
    AppView,
    EnvView,
    OperationView,
    ProcView,
    ReleaseProcView,
    ReleaseView,
    RepoView,
    RouteView,
    VersionsView,
    VersionView,
)
from lain_sdk.manifest import Version, parse_version
from lain_shared.model.app import App, Failure, HistoryRecord, Operation, OperationHolder, Outcome, Release
from lain_shared.model.config import ClusterConfig
from lain_shared.model.pod import Desired, ProcType
from lain_shared.model.route import HostClaim, Route
from lain_shared.model.status import ProcPhase, ProcStatus

FAILED_OUTCOMES = frozenset({Outcome.FAILED, Outcome.ROLLED_BACK})


def repo_view(app: App, meta_version: str, hosts: Iterable[HostClaim]) -> RepoView:
    own = tuple(sorted(claim.host for claim in hosts if claim.owner == app.name and claim.default))
    return RepoView(app.name, app.owner, app.created_at, app.giturl, app.state, app.release, meta_version, own)


def versions_view(app: str, versions: Sequence[Version], current: str) -> VersionsView:
    return VersionsView(
        app,
        tuple(
            VersionView(
                version.name,
                version.time,
                commit=parsed.commit if (parsed := parse_version(version.name)) is not None else "",
                deployable=version.deployable,
                current=version.name == current,
                missing="" if version.deployable else "release",
            )
            for version in versions
        ),
    )


def route_view(route: Route, config: ClusterConfig, defaults: Iterable[str] = ()) -> RouteView:
    scheme, port = ("https", config.router_https_port) if route.https_only else ("http", config.router_http_port)
    shown = "" if port == {"http": 80, "https": 443}[scheme] else f":{port}"
    path = route.path if route.path.endswith("/") else route.path + "/"
    url = f"{scheme}://{route.host}{shown}{path}"
    return RouteView(route.host, route.path, route.https_only, url, route.host in set(defaults))


def operation_view(
    operation: Operation, holder: OperationHolder | None, now: float, meta_version: str = ""
) -> OperationView:
    return OperationView(
        operation.id,
        operation.app,
        operation.kind,
        operation.phase,
        operation.who,
        operation.started_at,
        round(max(now - operation.started_at, 0.0), 3),
        operation.release,
        operation.parent,
        meta_version,
        operation.procs,
        operation.cancel_requested,
        operation.failure,
        operation.steps,
        holder.console if holder is not None else "",
    )


def proc_view(
    desired: Desired,
    revision: int,
    status: ProcStatus | None,
    release: Release | None,
    config: ClusterConfig,
    *,
    defaults: Iterable[str] = (),
    pods: bool = True,
) -> ProcView:
    """``revision``: of ``desired``. ``release``: the current one, which says what the manifest had."""
    template = desired.template
    manifest = next((each for each in release.procs if each.proc == desired.proc), None) if release else None
    defaults = tuple(defaults)
    view = ProcView(
        desired.proc,
        desired.type,
        desired.release,
        template.image,
        desired.instances,
        cpu=template.cpu,
        memory_bytes=template.memory_bytes,
        port=template.port,
        strategy=desired.strategy.value,
        singleton=desired.singleton,
        stateful=desired.stateful,
        volumes=tuple(volume.path for volume in template.volumes),
        routes=tuple(route_view(route, config, defaults) for route in desired.routes),
        stopped=desired.stopped,
        overrides=desired.overrides,
        manifest_instances=manifest.instances if manifest is not None else None,
        manifest_cpu=manifest.template.cpu if manifest is not None else None,
        manifest_memory_bytes=manifest.template.memory_bytes if manifest is not None else None,
        seen=status is not None and status.desired_revision >= revision,
    )
    if status is None:
        return view
    return replace(
        view,
        ready=status.ready,
        updated=status.updated,
        phase=status.phase,
        message=status.message,
        reasons=status.reasons,
        pods=status.instances if pods else (),
    )


def app_view(
    scene: Scene,
    release: Release | None,
    config: ClusterConfig,
    now: float,
    *,
    defaults: Iterable[str] = (),
    last: HistoryRecord | None = None,
    operation_version: str = "",
    pods: bool = True,
) -> AppView:
    """``last``: the operation that ended last."""
    app, defaults = scene.app.value, tuple(defaults)
    procs = tuple(
        proc_view(
            stored.value,
            stored.entry.mod_revision,
            scene.status.get(proc),
            release,
            config,
            defaults=defaults,
            pods=pods,
        )
        for proc, stored in sorted(scene.desired.items())
    )
    routes = {(route.host, route.path): route for proc in procs for route in proc.routes}
    operation = scene.operation.value if scene.operation is not None else None
    holder = scene.holder.value if scene.holder is not None else None
    failure: Failure | None = last.failure if last is not None and last.outcome in FAILED_OUTCOMES else None
    return AppView(
        app.name,
        app.owner,
        app.state,
        app.giturl,
        app.release,
        release.meta_version if release is not None else "",
        release.created_at if release is not None else None,
        release.who if release is not None else "",
        procs,
        tuple(routes[key] for key in sorted(routes)),
        operation_view(operation, holder, now, operation_version) if operation is not None else None,
        failure,
        healthy=all(is_healthy(proc) for proc in procs),
    )


def is_healthy(proc: ProcView) -> bool:
    """It has as many ready instances as wanted. A oneshot is healthy unless it failed."""
    if proc.type is ProcType.ONESHOT:
        return proc.phase is not ProcPhase.FAILED
    return proc.ready >= proc.instances - len(proc.stopped)


class Detail(Enum):
    """How much of a release is shown. ``NAMES``: of its environment only the names, and no manifest, which has values too."""

    BRIEF = 0
    NAMES = 1
    WHOLE = 2


def release_view(release: Release, current: int | None, detail: Detail = Detail.BRIEF) -> ReleaseView:
    return ReleaseView(
        release.number,
        release.meta_version,
        release.created_at,
        release.who,
        release.number == current,
        release.parent,
        release.rollback_of,
        release.note,
        tuple(
            ReleaseProcView(
                each.proc,
                each.type,
                each.template.image,
                each.instances,
                each.template.cpu,
                each.template.memory_bytes,
                tuple(str(route) for route in each.routes),
            )
            for each in release.procs
        ),
        dict(release.env) if detail is Detail.WHOLE else {},
        release.manifest if detail is Detail.WHOLE else "",
        () if detail is Detail.BRIEF else tuple(sorted(release.env)),
    )


def env_view(app: App, release: Release | None, manifest_env: Mapping[str, Mapping[str, str]]) -> EnvView:
    return EnvView(app.name, dict(app.env), dict(release.env) if release is not None else {}, manifest_env)
