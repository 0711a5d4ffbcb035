"""A typed, asynchronous client of LAIN's APIs: what the CLI uses, and what anybody's script can.

    async with Console("https://console.lain.localhost:9510", token=token, ca=Path("ca.pem")) as lain:
        accepted = await lain.deploy("hello")
        ended = await lain.wait("hello", accepted.operation.id)

Every method raises a ``LainError``: the kind the server named, or ``Unavailable`` when it cannot be reached.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from lain_sdk.api_types import (
    Accepted,
    AppView,
    ClusterView,
    ConfigView,
    EnvView,
    ExplainView,
    IssuedToken,
    NodeView,
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
from lain_shared.errors import NotFound, Unavailable
from lain_shared.http_client import HttpClient
from lain_shared.model.app import HistoryRecord, Step
from lain_shared.model.config import Role
from lain_shared.model.node import Switch
from lain_shared.model.pod import Assignment
from lain_shared.model.status import InstanceStatus, ProcStatus
from lain_shared.tls import client_context

T = TypeVar("T")
RECONNECT_SECONDS = 1.0


def read(kind: type[T], document: object) -> T:
    """A view out of decoded JSON. Unknown fields are ignored: a newer server may say more."""
    return msgspec.convert(document, kind, strict=False, str_keys=True)


class _Client:
    """Connection and authentication, alike for every API. ``ca``: the cluster's CA (PEM file); None: the system's."""

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


class Console(_Client):
    """The console's API: apps, releases, operations."""

    # --- who and where ---

    async def whoami(self) -> WhoamiView: ...

    async def cluster(self) -> ClusterView: ...

    # --- registration and versions ---

    async def repos(self) -> tuple[RepoView, ...]: ...

    async def repo(self, app: str) -> RepoView: ...

    async def register(self, app: str, giturl: str = "") -> RepoView: ...

    async def unregister(self, app: str) -> None:
        """Gives the name and its default hosts back. Refused while a release runs."""

    async def versions(self, app: str) -> VersionsView: ...

    # --- apps ---

    async def apps(self) -> tuple[AppView, ...]:
        """Every app the caller may see, with procs but without pods."""

    async def app(self, app: str) -> AppView: ...

    async def procs(self, app: str) -> tuple[ProcView, ...]: ...

    async def proc(self, app: str, proc: str) -> ProcView: ...

    async def explain(self, app: str) -> ExplainView: ...

    # --- operations ---

    async def plan(
        self, app: str, meta_version: str | None = None, *, proc: str | None = None, replace: bool = False
    ) -> PlanView:
        """What ``deploy`` would do. A refused plan is an answer, not an error."""

    async def deploy(
        self, app: str, meta_version: str | None = None, *, proc: str | None = None, replace: bool = False
    ) -> Accepted:
        """Deploy ``meta_version`` (None: the newest deployable). ``Refused`` carries the plan's refusals in its evidence."""

    async def rollback(self, app: str, release: int | None = None) -> Accepted:
        """A new release equal to ``release`` (None: the one before the current)."""

    async def undeploy(self, app: str, *, force: bool = False) -> Accepted: ...

    async def scale(
        self,
        app: str,
        proc: str,
        instances: int | None = None,
        *,
        cpu: int | None = None,
        memory: str | int | None = None,
        reset: bool = False,
    ) -> Accepted:
        """``memory``: bytes, or a size as the manifest has it (``"64m"``). ``reset``: back to the manifest's values."""

    async def restart(self, app: str, proc: str | None = None, instance: int | None = None) -> Accepted:
        """Replace the pods of a proc (None: of every proc) by the rollout path."""

    async def stop(self, app: str, proc: str | None = None, instance: int | None = None) -> Accepted: ...

    async def start(self, app: str, proc: str | None = None, instance: int | None = None) -> Accepted: ...

    async def operation(self, app: str) -> OperationView | None:
        """The running operation, or None."""

    async def cancel(self, app: str) -> OperationView:
        """Ask the running operation to go back to where it came from."""

    def events(self, app: str) -> AsyncIterator[Progress]:
        """The running operation's progress, from its first step; ends with ``Progress(end=…)``, or at once if nothing runs."""

    async def wait(
        self,
        app: str,
        operation_id: str,
        *,
        on_step: Callable[[Step], None] | None = None,
        on_status: Callable[[ProcStatus], None] | None = None,
    ) -> HistoryRecord:
        """Until that operation has ended, however often the connection breaks meanwhile. Each step is told once."""

    # --- environment ---

    async def env(self, app: str) -> EnvView: ...

    async def set_env(self, app: str, set: Mapping[str, str] | None = None, unset: Iterable[str] = ()) -> Accepted:
        """Change the app's environment; a running app gets a new release. ``operation`` is None when nothing runs."""

    # --- the past ---

    async def releases(self, app: str) -> tuple[ReleaseView, ...]:
        """The releases that are kept, newest first."""

    async def release(self, app: str, number: int) -> ReleaseView: ...

    async def history(self, app: str) -> tuple[HistoryRecord, ...]:
        """Ended operations, newest first."""

    async def history_record(self, app: str, operation_id: str) -> HistoryRecord: ...

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

    def exec(
        self, app: str, proc: str, instance: int, command: Iterable[str], *, tty: bool = False
    ) -> AbstractAsyncContextManager[aiohttp.ClientWebSocketResponse]:
        """A websocket to a command inside an instance.

        Client to server: binary = stdin; text JSON ``{"resize": [columns, rows]}`` or ``{"eof": true}``. Server to client: binary = one
        byte (1 stdout, 2 stderr) and data; text JSON ``{"exit": n}``.
        """

    # --- administration ---

    async def config_names(self) -> tuple[str, ...]: ...

    async def config(self, name: str) -> ConfigView: ...

    async def set_config(self, name: str, value: Mapping[str, Any], *, revision: int | None = None) -> ConfigView: ...

    async def tokens(self) -> tuple[TokenView, ...]: ...

    async def issue_token(
        self, name: str, role: Role, apps: Iterable[str] = (), *, expires_in_seconds: float | None = None
    ) -> IssuedToken:
        """``text`` is shown this once and stored nowhere."""

    async def revoke_token(self, token_id: str) -> None: ...


class Deployd(_Client):
    """The controller's API: nodes, pods, switches, routers."""

    async def nodes(self) -> tuple[NodeView, ...]: ...

    async def node(self, node: str) -> NodeView: ...

    async def register_node(self, node: str, address: str, labels: Mapping[str, str] | None = None) -> NodeView: ...

    async def change_node(
        self, node: str, *, cordoned: bool | None = None, labels: Mapping[str, str] | None = None
    ) -> NodeView: ...

    async def pods(self) -> tuple[InstanceStatus, ...]: ...

    async def assignments(self) -> tuple[Assignment, ...]: ...

    async def why(self, app: str, proc: str) -> Mapping[str, Any]: ...

    async def switches(self) -> tuple[Switch, ...]: ...

    async def set_switch(self, name: str, on: bool, why: str = "") -> Switch: ...

    async def routers(self) -> tuple[Mapping[str, Any], ...]: ...

    async def forget_router(self, router: str) -> None: ...
