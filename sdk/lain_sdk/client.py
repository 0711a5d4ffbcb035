"""A typed, asynchronous client of LAIN's APIs: what the CLI uses, and what anybody's script can.

    async with Console("https://console.lain.localhost:9510", token=token, ca=Path("ca.pem")) as lain:
        accepted = await lain.deploy("hello")
        ended = await lain.wait("hello", accepted.operation.id)

Every method raises a ``LainError``: the kind the server named, or ``Unavailable`` when it cannot be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from lain_sdk.api_types import (
    Accepted,
    AppView,
    ClusterView,
    ConfigView,
    EnvView,
    ExplainView,
    HostView,
    IssuedToken,
    OperationView,
    PlanView,
    ProcView,
    Progress,
    ReleaseView,
    RepoView,
    TokenView,
    VersionsView,
    WhoamiView,
)
from lain_shared.agent_views import LossView, NodeVolume
from lain_shared.deployd_views import AssignmentView, NodeView, PodView, RouterView, WhyView
from lain_shared.errors import NotFound, Unavailable
from lain_shared.http_client import HttpClient
from lain_shared.model.app import HistoryRecord, Step
from lain_shared.model.config import Role
from lain_shared.model.node import Drain, Node, Switch
from lain_shared.model.status import ProcStatus
from lain_shared.platform_view import PlatformView
from lain_shared.tls import client_context

T = TypeVar("T")
RECONNECT_SECONDS = 1.0


class _Client:
    """Connection and authentication, alike for every API.

    ``token``: a bearer token. ``ca``: the cluster's CA (PEM file); None: the system's authorities. ``tls_dir``: a daemon's own
    certificate instead of a token. ``timeout_seconds`` bounds one call; streams are bounded by silence.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: Path | None = None,
        tls_dir: Path | None = None,
        timeout_seconds: float = 30.0,
    ) -> None:
        self.url = url.rstrip("/")
        tls = client_context(tls_dir, ca=ca) if self.url.startswith("https:") else None
        self.http = HttpClient(self.url, token=token, tls=tls, timeout_seconds=timeout_seconds)

    async def __aenter__(self) -> Self:
        await self.http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.__aexit__(kind, error, trace)

    async def _get(self, path: str, kind: type[T], params: Mapping[str, Any] | None = None) -> T:
        answer: T = await self.http.call("GET", path, params=params, kind=kind)
        return answer

    async def _send(self, method: str, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        answer: T = await self.http.call(method, path, json=_given(body or {}), kind=kind)
        return answer


class Console(_Client):
    """The console's API: apps, releases, operations."""

    # --- who and where ---

    async def whoami(self) -> WhoamiView:
        return await self._get("/api/v1/whoami/", WhoamiView)

    async def cluster(self) -> ClusterView:
        return await self._get("/api/v1/cluster/", ClusterView)

    async def platform(self) -> PlatformView:
        """How the platform itself is, as this console sees it; it answers while etcd is away."""
        return await self._get("/api/v1/platform/", PlatformView)

    # --- registration and versions ---

    async def repos(self) -> tuple[RepoView, ...]:
        return await self._get("/api/v1/repos/", tuple[RepoView, ...])

    async def repo(self, app: str) -> RepoView:
        return await self._get(_path("repos", app), RepoView)

    async def register(self, app: str, giturl: str = "") -> RepoView:
        return await self._send("POST", "/api/v1/repos/", RepoView, {"name": app, "giturl": giturl or None})

    async def unregister(self, app: str) -> None:
        """Gives the name and its default hosts back. Refused while a release runs."""
        await self.http.delete(_path("repos", app))

    async def versions(self, app: str) -> VersionsView:
        return await self._get(_path("repos", app, "versions"), VersionsView)

    async def set_guests(self, app: str, host: str, guests: Iterable[str]) -> HostView:
        """Which other apps may claim paths on a host that ``app`` owns."""
        return await self._send("PUT", _path("repos", app, "hosts", host), HostView, {"guests": list(guests)})

    # --- apps ---

    async def apps(self) -> tuple[AppView, ...]:
        """Every app the caller may see, with procs but without pods."""
        return await self._get("/api/v1/apps/", tuple[AppView, ...])

    async def app(self, app: str) -> AppView:
        return await self._get(_path("apps", app), AppView)

    async def procs(self, app: str) -> tuple[ProcView, ...]:
        return await self._get(_path("apps", app, "procs"), tuple[ProcView, ...])

    async def proc(self, app: str, proc: str) -> ProcView:
        return await self._get(_path("apps", app, "procs", proc), ProcView)

    async def explain(self, app: str) -> ExplainView:
        return await self._get(_path("apps", app, "explain"), ExplainView)

    # --- operations ---

    async def plan(
        self, app: str, meta_version: str | None = None, *, proc: str | None = None, replace: bool = False
    ) -> PlanView:
        """What ``deploy`` would do. A refused plan is an answer, not an error."""
        body = {"meta_version": meta_version, "proc": proc, "replace": replace or None}
        return await self._send("POST", _path("apps", app, "plan"), PlanView, body)

    async def deploy(
        self, app: str, meta_version: str | None = None, *, proc: str | None = None, replace: bool = False
    ) -> Accepted:
        """Deploy ``meta_version`` (None: the newest deployable). ``Refused`` carries the plan's refusals in its evidence."""
        body = {"meta_version": meta_version, "proc": proc, "replace": replace or None}
        return await self._send("PUT", _path("apps", app), Accepted, body)

    async def rollback(self, app: str, release: int | None = None) -> Accepted:
        """A new release equal to ``release`` (None: the one before the current)."""
        return await self._send("POST", _path("apps", app, "rollback"), Accepted, {"release": release})

    async def undeploy(self, app: str, *, delete_volumes: bool = False) -> Accepted:
        """Take the app out of service; its name, history and releases stay. ``volumes`` lists its volumes: they stay too, unless
        ``delete_volumes``, which nothing undoes."""
        params = {"delete_volumes": app} if delete_volumes else None
        answer: Accepted = await self.http.call("DELETE", _path("apps", app), params=params, kind=Accepted)
        return answer

    async def scale(
        self,
        app: str,
        proc: str,
        instances: int | None = None,
        *,
        cpu: int | None = None,
        memory: str | int | None = None,
        reset: bool = False,
        replace: bool = False,
    ) -> Accepted:
        """``memory``: bytes, or a size as the manifest has it (``"64m"``). ``reset``: back to the manifest's values.

        ``replace``: take over from a running operation, which goes back to where it came from.
        """
        body = {
            "instances": instances, "cpu": cpu, "memory": memory, "reset": reset or None, "replace": replace or None,
        }  # fmt: skip
        return await self._send("PATCH", _path("apps", app, "procs", proc), Accepted, body)

    async def restart(self, app: str, proc: str | None = None, instance: int | None = None) -> Accepted:
        """Replace the pods of a proc (None: of every proc) by the rollout path."""
        return await self._operate(app, "restart", proc, instance)

    async def stop(
        self, app: str, proc: str | None = None, instance: int | None = None, *, replace: bool = False
    ) -> Accepted:
        """Stop a proc's instance (None: every one). Instances keep their number; ``start`` brings them back."""
        return await self._operate(app, "stop", proc, instance, replace=replace)

    async def start(self, app: str, proc: str | None = None, instance: int | None = None) -> Accepted:
        return await self._operate(app, "start", proc, instance)

    async def _operate(
        self, app: str, operation: str, proc: str | None, instance: int | None, *, replace: bool = False
    ) -> Accepted:
        path = _path("apps", app, "procs") if proc is None else _path("apps", app, "procs", proc)
        body = {"operation": operation, "instance": instance, "replace": replace or None}
        return await self._send("PATCH", path, Accepted, body)

    async def operation(self, app: str) -> OperationView | None:
        """The running operation, or None."""
        try:
            return await self._get(_path("apps", app, "operation"), OperationView)
        except NotFound as error:
            if error.error_code == "no_operation":
                return None
            raise

    async def cancel(self, app: str) -> OperationView:
        """Ask the running operation to go back to where it came from. ``Conflict`` once it is past that."""
        answer: OperationView = await self.http.call("DELETE", _path("apps", app, "operation"), kind=OperationView)
        return answer

    async def events(self, app: str, operation_id: str | None = None) -> AsyncIterator[Progress]:
        """An operation's progress from its first step on; ``Progress(end=…)`` is the last, unless the connection breaks.

        None: of the running operation (``NotFound``, code ``no_operation``, when none runs).
        """
        path, params = _path("apps", app, "operation", "events"), {"operation": operation_id}
        async with aclosing(self.http.events(path, params=params)) as events:  # type: ignore[type-var]
            async for event in events:
                if event.event == "step":
                    yield Progress(step=msgspec.convert(event.data, Step))
                elif event.event == "status":
                    yield Progress(status=msgspec.convert(event.data, ProcStatus))
                elif event.event == "end":
                    yield Progress(end=msgspec.convert(event.data, HistoryRecord))
                    return

    async def wait(
        self,
        app: str,
        operation_id: str,
        *,
        on_step: Callable[[Step], None] | None = None,
        on_status: Callable[[ProcStatus], None] | None = None,
    ) -> HistoryRecord:
        """Until that operation has ended, however often the connection breaks meanwhile. Each step is told once.

        Only a refusal (an unknown operation, no rights) raises; bound it with ``asyncio.timeout`` if you must.
        """
        told = 0
        while True:
            heard = 0
            try:
                async with aclosing(self.events(app, operation_id)) as events:  # type: ignore[type-var]
                    async for event in events:
                        if event.end is not None:
                            for step in event.end.steps[max(told, heard) :]:
                                _tell(on_step, step)
                            return event.end
                        if event.step is not None:
                            heard += 1
                            if heard > told:
                                told = heard
                                _tell(on_step, event.step)
                        if event.status is not None:
                            _tell(on_status, event.status)
            except Unavailable:
                await asyncio.sleep(RECONNECT_SECONDS)

    # --- environment ---

    async def env(self, app: str) -> EnvView:
        return await self._get(_path("apps", app, "env"), EnvView)

    async def set_env(self, app: str, set: Mapping[str, str] | None = None, unset: Iterable[str] = ()) -> Accepted:
        """Change the app's environment; a running app gets a new release. ``operation`` is None when nothing runs."""
        body = {"set": dict(set or {}), "unset": list(unset)}
        return await self._send("PATCH", _path("apps", app, "env"), Accepted, body)

    # --- the past ---

    async def releases(self, app: str) -> tuple[ReleaseView, ...]:
        """The releases that are kept, newest first."""
        return await self._get(_path("apps", app, "releases"), tuple[ReleaseView, ...])

    async def release(self, app: str, number: int) -> ReleaseView:
        return await self._get(_path("apps", app, "releases", str(number)), ReleaseView)

    async def history(self, app: str) -> tuple[HistoryRecord, ...]:
        """Ended operations, newest first."""
        return await self._get(_path("apps", app, "history"), tuple[HistoryRecord, ...])

    async def history_record(self, app: str, operation_id: str) -> HistoryRecord:
        return await self._get(_path("apps", app, "history", operation_id), HistoryRecord)

    # --- streams ---

    def logs(
        self,
        app: str,
        proc: str,
        instance: int,
        *,
        follow: bool = False,
        since: float | None = None,
        previous: bool = False,
        tail: int | None = None,
    ) -> AsyncIterator[bytes]:
        """Lines of an instance's output. ``since``: seconds since the epoch. ``previous``: of the container before."""
        params = {"follow": follow or None, "since": since, "previous": previous or None, "tail": tail}
        return self.http.stream(_instance(app, proc, instance, "logs"), params=params, quiet=True)

    def exec(
        self, app: str, proc: str, instance: int, command: Iterable[str], *, tty: bool = False
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """A websocket to a command inside an instance.

        Client to server: binary = stdin; text JSON ``{"resize": [columns, rows]}`` or ``{"eof": true}``. Server to client: binary = one
        byte (1 stdout, 2 stderr) and data; text JSON ``{"exit": n}``.
        """
        params = [("cmd", word) for word in command] + ([("tty", "true")] if tty else [])
        return self.http.websocket(_instance(app, proc, instance, "exec"), params=params)

    # --- administration ---

    async def config_names(self) -> tuple[str, ...]:
        return await self._get("/api/v1/config/", tuple[str, ...])

    async def config(self, name: str) -> ConfigView:
        return await self._get(_path("config", name), ConfigView)

    async def set_config(self, name: str, value: Mapping[str, Any], *, revision: int | None = None) -> ConfigView:
        """Replace ``config/<name>``. ``revision``: only if it is still that one (0: only if absent); else ``Conflict``."""
        body = {"value": dict(value), "revision": revision}
        return await self._send("PUT", _path("config", name), ConfigView, body)

    async def tokens(self) -> tuple[TokenView, ...]:
        return await self._get("/api/v1/tokens/", tuple[TokenView, ...])

    async def issue_token(
        self, name: str, role: Role, apps: Iterable[str] = (), *, expires_in_seconds: float | None = None
    ) -> IssuedToken:
        """``text`` is shown this once and stored nowhere."""
        body = {"name": name, "role": role.value, "apps": list(apps), "expires_in_seconds": expires_in_seconds}
        return await self._send("POST", "/api/v1/tokens/", IssuedToken, body)

    async def revoke_token(self, token_id: str) -> None:
        await self.http.delete(_path("tokens", token_id))


class Deployd(_Client):
    """The controller's API: nodes, pods, switches, routers."""

    async def platform(self) -> PlatformView:
        """How the platform itself is, as this replica sees it; it answers while etcd is away."""
        return await self._get("/api/v1/platform/", PlatformView)

    async def nodes(self) -> tuple[NodeView, ...]:
        return await self._get("/api/v1/nodes/", tuple[NodeView, ...])

    async def node(self, node: str) -> NodeView:
        return await self._get(_path("nodes", node), NodeView)

    async def register_node(self, node: str, address: str, labels: Mapping[str, str] | None = None) -> Node:
        """Register a node, or set its address and labels anew."""
        return await self._send("PUT", _path("nodes", node), Node, {"address": address, "labels": labels})

    async def change_node(
        self, node: str, *, cordoned: bool | None = None, labels: Mapping[str, str | None] | None = None
    ) -> Node:
        """``labels``: those to set; None removes one."""
        return await self._send("PATCH", _path("nodes", node), Node, {"cordoned": cordoned, "labels": labels})

    async def drain_node(self, node: str) -> Drain:
        """Move its pods away; those with volumes or state stay."""
        return await self._send("PUT", _path("nodes", node, "drain"), Drain)

    async def end_drain(self, node: str) -> None:
        await self.http.delete(_path("nodes", node, "drain"))

    async def pods(self) -> tuple[PodView, ...]:
        """All pods the caller may see."""
        return await self._get("/api/v1/pods/", tuple[PodView, ...])

    async def assignments(self) -> tuple[AssignmentView, ...]:
        return await self._get("/api/v1/assignments/", tuple[AssignmentView, ...])

    async def why(self, app: str, proc: str) -> WhyView:
        """Why its pods are where they are, and why not elsewhere."""
        return await self._get(_path("why", app, proc), WhyView)

    async def switches(self) -> tuple[Switch, ...]:
        return await self._get("/api/v1/switches/", tuple[Switch, ...])

    async def set_switch(self, name: str, on: bool, why: str = "") -> Switch:
        return await self._send("PUT", _path("switches", name), Switch, {"on": on, "why": why})

    async def routers(self) -> tuple[RouterView, ...]:
        return await self._get("/api/v1/routers/", tuple[RouterView, ...])

    async def forget_router(self, router: str) -> None:
        await self.http.delete(_path("routers", router))


class Agent(_Client):
    """The API of one node's agent, for operators. Its address: ``NodeView.alive.agent_url``."""

    async def volumes(self) -> tuple[NodeVolume, ...]:
        return await self._get("/api/v1/volumes/", tuple[NodeVolume, ...])

    async def confirm_loss(self, volume: str) -> LossView:
        """Give up the data of an instance that is gone from the node's disk: it may start with none."""
        return await self._send("POST", _path("volumes", volume, "confirm-loss"), LossView)


def _path(*parts: str) -> str:
    return "/api/v1/" + "".join(quote(part, safe="") + "/" for part in parts)


def _instance(app: str, proc: str, instance: int, what: str) -> str:
    return _path("apps", app, "procs", proc, "instances", str(instance), what)


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _tell(listener: Callable[[T], None] | None, what: T) -> None:
    if listener is not None:
        listener(what)
