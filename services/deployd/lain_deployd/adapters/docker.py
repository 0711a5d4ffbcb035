"""``Engine`` over the Docker Engine API (aiodocker).

Docker's documents are understood in ``docker_json``, its refusals in ``docker_errors``, what it goes on sending in ``docker_streams``.
Two faults of aiodocker 0.27 are mended: a stream that is left early kept its connection (a hundred of them hang the client), and
``events.subscribe()`` stays silent after the Engine restarted (here every subscription is a request of its own).
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog
from aiodocker import Docker, DockerError

from lain_deployd.adapters import docker_json
from lain_deployd.adapters.containerd import Containerd, sockets_beside
from lain_deployd.adapters.docker_errors import gone_is_fine, pull_failure, translated
from lain_deployd.adapters.docker_streams import ExecSession, read_chunks, read_events
from lain_deployd.agent.engine import (
    BadLimits,
    Container,
    ContainerNameTaken,
    ContainerSpec,
    ContainerState,
    Credentials,
    EngineEvent,
    EngineInfo,
    EngineRefused,
    ExecResult,
    Glance,
    Image,
    ImageAbsent,
    Limits,
    LogChunk,
    MemoryInUse,
    NoSuchContainer,
    NotRunning,
    PullProgress,
)

log = structlog.get_logger()

CALL_SECONDS = 30.0
STALLED_PULL_SECONDS = 300.0
MAX_FILE_BYTES = 1024 * 1024
MAX_EXEC_OUTPUT_BYTES = 4096
PARALLEL_INSPECTS = 32
AT_REST = (ContainerState.CREATED, ContainerState.EXITED, ContainerState.DEAD)
STREAM = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
STARTING = aiohttp.ClientTimeout(total=120.0)
"""Creating, starting and removing wait for disks and other containers."""


class _Client(Docker):
    """aiodocker without its leak: whoever leaves a stream early closes the connection, everyone else gives it back."""

    @asynccontextmanager
    async def _query(self, *args: Any, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        if args:
            options["path"] = args[0]
        options.setdefault("method", args[1] if len(args) > 1 else "GET")
        response = await self._do_query(**options)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()


class DockerEngine:
    """One Docker Engine behind its unix socket, and the containerd it works with."""

    def __init__(self, client: Docker, containerd: Containerd) -> None:
        self._client = client
        self._containerd = containerd
        self._cgroups = ""
        self._made: set[str] = set()
        """Made by us and never told to start: the Engine cannot have lost track of these."""
        self._unended: dict[tuple[str, tuple[str, ...]], str] = {}
        """Container and command → the last ``run`` of it, if its end was not seen."""

    @classmethod
    @asynccontextmanager
    async def connect(cls, socket: str, *, containerd: str = "") -> AsyncIterator[DockerEngine]:
        """An Engine at the unix socket of that path. Nothing is asked of it yet: it may be down.

        ``containerd``: its containerd's socket; "": looked for beside the Engine's.
        """
        timeout = aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=5.0)
        beneath = Containerd((Path(containerd),) if containerd else sockets_beside(socket))
        # as many questions at once as there are: a hundred followed outputs must not be in the way of a hundred and first
        connector = aiohttp.UnixConnector(socket, limit=0)
        async with connector, _Client(url="unix://localhost", connector=connector, timeout=timeout) as client:
            try:
                yield cls(client, beneath)
            finally:
                await beneath.close()

    # --- the Engine itself --------------------------------------------------------------------------------------------

    async def info(self) -> EngineInfo:
        with translated("the Engine cannot say how it is"):
            return docker_json.info(await self._client._query_json("info"))

    async def ensure_network(self, name: str, subnet: str, bridge: str) -> None:
        with translated(f"network {name} on {subnet} cannot be made"):
            found = await self._inspect_network(name)
            if found is None:
                version = docker_json.major_version((await self._client._query_json("version"))["Version"])
                body = docker_json.network(name, subnet, bridge, version)
                await self._client._query_json("networks/create", "POST", data=body, timeout=STARTING)
                return
        if (otherwise := docker_json.network_differs(found, subnet)) is not None:
            raise EngineRefused(
                f"the Engine has a network {name} that is not ours", why=otherwise,
                next=f"remove it when nothing uses it any more: docker network rm {name}",
            )  # fmt: skip

    async def _inspect_network(self, name: str) -> Any:
        try:
            return await self._client._query_json(f"networks/{name}")
        except DockerError as error:
            if error.status == 404:
                return None
            raise

    # --- containers ---------------------------------------------------------------------------------------------------

    async def containers(self, labels: Mapping[str, str]) -> tuple[Container, ...]:
        wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
        with translated("containers cannot be listed"):
            listed = await self._client._query_json(
                "containers/json", params={"all": True, "filters": json.dumps({"label": wanted})}
            )
        gate = asyncio.Semaphore(PARALLEL_INSPECTS)

        async def inspect(item: Mapping[str, Any]) -> Container | None:
            async with gate:
                try:
                    return await self.container(item["Id"])
                except EngineRefused as error:  # its files are damaged, say: it must not hide the others
                    log.warning("container_not_shown", container=item["Id"][:12], why=error.why)
                    with translated("containers cannot be listed"):
                        return docker_json.listed(item)

        found = await asyncio.gather(*(inspect(item) for item in listed))
        return tuple(container for container in found if container is not None)

    async def glance(self) -> tuple[Glance, ...]:
        with translated("containers cannot be listed"):
            listed = await self._client._query_json("containers/json", params={"all": True})
        return tuple(docker_json.glance(item) for item in listed)

    async def container(self, container: str) -> Container | None:
        try:
            with translated(f"container {container} cannot be looked at"):
                return docker_json.container(await self._client._query_json(f"containers/{container}/json"))
        except NoSuchContainer:
            return None

    async def create(self, spec: ContainerSpec) -> str:
        with translated(f"container {spec.name} cannot be made"):
            made = await self._client._query_json(
                "containers/create", "POST", params={"name": spec.name}, data=docker_json.create(spec), timeout=STARTING
            )
        self._made.add(str(made["Id"]))
        return str(made["Id"])

    async def start(self, container: str) -> None:
        if container in self._made:
            self._made.discard(container)
        else:
            await self._end_what_is_left(container)
        with translated(f"container {container} cannot be started"):
            await self._post(f"containers/{container}/start", timeout=STARTING)

    async def _end_what_is_left(self, container: str) -> None:
        """Of a container that does not run, the Engine says: what containerd has of it since the Engine died while starting it."""
        if not await self._containerd.knows(container):
            return
        found = await self.container(container)
        if (found is None or found.state in AT_REST) and await self._containerd.forget(container):
            log.warning("lost_process_ended", container=container[:12])

    async def stop(self, container: str, timeout_seconds: int) -> None:
        with translated(f"container {container} cannot be stopped"), gone_is_fine():
            patience = aiohttp.ClientTimeout(total=timeout_seconds + CALL_SECONDS)
            await self._post(f"containers/{container}/stop", {"t": timeout_seconds}, timeout=patience)

    async def kill(self, container: str) -> None:
        with translated(f"container {container} cannot be killed"), gone_is_fine(409):
            await self._post(f"containers/{container}/kill")

    async def remove(self, container: str) -> None:
        self._made.discard(container)
        self._unended = {key: run for key, run in self._unended.items() if key[0] != container}
        await self._end_what_is_left(container)
        try:
            with translated(f"container {container} cannot be removed"), gone_is_fine():
                await self._call("DELETE", f"containers/{container}", {"force": True, "v": True}, timeout=STARTING)
        except NotRunning as error:  # its removal is in progress already, which is no removal yet
            raise EngineRefused(error.message, why=error.why, retry_seconds=1.0) from error

    async def update(self, container: str, limits: Limits) -> None:
        if await self._cgroup_version() != "1" and await self._takes_memory(container, limits):
            await self._require_free(container, limits)  # the kernel would kill for it
        try:
            with translated(f"limits of container {container} cannot be changed"):
                await self._client._query_json(
                    f"containers/{container}/update", "POST", data=docker_json.limits(limits)
                )
        except EngineRefused as error:
            if "unable to set memory limit" in error.why:  # cgroup v1: it fails as a whole, and at once
                await self._require_free(container, limits)
            raise BadLimits(error.message, why=error.why) from error

    async def _cgroup_version(self) -> str:
        """Of the machine: it changes with its boot options only, and no Engine survives that."""
        if not self._cgroups:
            with translated("the Engine cannot say how it is"):
                self._cgroups = str((await self._client._query_json("info")).get("CgroupVersion") or "1")
        return self._cgroups

    async def _takes_memory(self, container: str, limits: Limits) -> bool:
        found = await self.container(container)
        return found is not None and limits.memory_bytes < found.limits.memory_bytes

    async def _require_free(self, container: str, limits: Limits) -> None:
        used = await self.memory_used(container)
        if used is not None and used > limits.memory_bytes:
            raise MemoryInUse(container, used, limits)

    async def memory_used(self, container: str) -> int | None:
        with translated(f"memory of container {container} cannot be read"), gone_is_fine():
            stats = await self._client._query_json(
                f"containers/{container}/stats", params={"stream": False, "one-shot": True}
            )
            return docker_json.memory_used(stats)
        return None

    async def layer_bytes(self, container: str) -> int | None:
        with translated(f"what container {container} wrote cannot be counted"), gone_is_fine():
            found = await self._client._query_json(
                f"containers/{container}/json", params={"size": True}, timeout=STARTING
            )
            return int(found.get("SizeRw") or 0)
        return None

    async def read_file(self, container: str, path: str) -> bytes | None:
        with translated(f"{path} of container {container} cannot be read"), gone_is_fine():
            async with self._client._query(f"containers/{container}/archive", params={"path": path}) as answer:
                archive = await answer.content.read(MAX_FILE_BYTES)
                while not answer.content.at_eof() and len(archive) < MAX_FILE_BYTES:
                    archive += await answer.content.read(MAX_FILE_BYTES - len(archive))
            try:
                with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                    member = tar.next()
                    opened = tar.extractfile(member) if member is not None and member.isfile() else None
                    return opened.read() if opened is not None else None
            except tarfile.TarError:
                return None
        return None

    # --- images -------------------------------------------------------------------------------------------------------

    async def image(self, reference: str) -> Image | None:
        with translated(f"image {reference} cannot be looked at"), gone_is_fine():
            return docker_json.image(await self._client._query_json(f"images/{reference}/json"))
        return None

    async def pull(
        self, reference: str, credentials: Credentials | None, on_progress: Callable[[PullProgress], None]
    ) -> None:
        headers = (
            {"X-Registry-Auth": docker_json.registry_auth(reference, credentials)} if credentials is not None else {}
        )
        progress = docker_json.PullTally()
        patience = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=STALLED_PULL_SECONDS)
        try:
            with translated(f"image {reference} cannot be pulled"):
                async with self._client._query(
                    "images/create", method="POST", params={"fromImage": reference}, headers=headers, timeout=patience
                ) as answer:
                    async for line in answer.content:
                        if (failure := progress.take(msgspec.json.decode(line))) is not None:
                            raise DockerError(500, failure)
                        on_progress(progress.so_far)
        except (ImageAbsent, EngineRefused) as error:
            raise pull_failure(reference, error) from error

    async def remove_image(self, reference: str) -> bool:
        try:
            with translated(f"image {reference} cannot be removed"), gone_is_fine():
                await self._call("DELETE", f"images/{reference}", {}, timeout=STARTING)
        except (ContainerNameTaken, NotRunning):  # 409: in use
            return False
        return True

    # --- streams ------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def logs(
        self, container: str, *, follow: bool = False, since: float = 0.0, until: float = 0.0, tail: int | None = None
    ) -> AsyncIterator[AsyncIterator[LogChunk]]:
        params: dict[str, Any] = {
            "stdout": True,
            "stderr": True,
            "follow": follow,
            "tail": "all" if tail is None else tail,
        }
        if since:
            params["since"] = f"{since:.9f}"
        if until:
            params["until"] = f"{until:.9f}"
        path = f"containers/{container}/logs"
        async with self._open(f"output of container {container} cannot be read", path, params) as content:
            yield read_chunks(content)

    @asynccontextmanager
    async def events(self, since_nano: int = 0) -> AsyncIterator[AsyncIterator[EngineEvent]]:
        params = {"filters": json.dumps({"type": ["container"]})}
        if since_nano:
            params["since"] = docker_json.seconds_text(since_nano)
        async with self._open("events cannot be followed", "events", params) as content:
            yield read_events(content)

    @asynccontextmanager
    async def _open(self, what: str, path: str, params: Mapping[str, Any]) -> AsyncIterator[aiohttp.StreamReader]:
        """A stream; only what we do is translated, never what its reader does meanwhile."""
        async with AsyncExitStack() as stack:
            with translated(what):
                query = self._client._query(path, params=dict(params), timeout=STREAM)
                answer = await stack.enter_async_context(query)
            yield answer.content

    async def recent_events(self, since_nano: int) -> tuple[EngineEvent, ...]:
        params = {
            "filters": json.dumps({"type": ["container"]}),
            "since": docker_json.seconds_text(since_nano),
            "until": "0",
        }
        with translated("recent events cannot be read"):
            now = docker_json.when((await self._client._query_json("info"))["SystemTime"])
            params["until"] = f"{(now or 0.0) + 1:.9f}"
            found: list[EngineEvent] = []
            async with self._client._query("events", params=params) as answer:
                async for event in read_events(answer.content):
                    found.append(event)
        return tuple(found)

    # --- commands inside ----------------------------------------------------------------------------------------------

    async def run(self, container: str, command: tuple[str, ...], timeout_seconds: float) -> ExecResult:
        output, key = b"", (container, command)
        if (before := self._unended.get(key)) is not None and await self._runs_on(before):
            raise TimeoutError  # nobody can end it: one more beside it would stay as well
        async with asyncio.timeout(timeout_seconds), self.exec(container, command, terminal=False) as session:
            self._unended[key] = session.id
            while (chunk := await session.read()) is not None:
                output = (output + chunk.data)[-MAX_EXEC_OUTPUT_BYTES:]
            code = await session.exit_code()
        self._unended.pop(key, None)
        return ExecResult(-1 if code is None else code, output.decode(errors="replace").strip())

    async def _runs_on(self, exec_id: str) -> bool:
        with translated("the end of a command cannot be seen"), gone_is_fine():
            return bool((await self._client._query_json(f"exec/{exec_id}/json"))["Running"])
        return False

    @asynccontextmanager
    async def exec(self, container: str, command: tuple[str, ...], *, terminal: bool) -> AsyncIterator[ExecSession]:
        body = {
            "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": terminal, "Cmd": list(command),
        }  # fmt: skip
        with translated(f"a command cannot be run in container {container}"):
            made = await self._client._query_json(f"containers/{container}/exec", "POST", data=body)
            session = ExecSession(self._client, str(made["Id"]), terminal)
        with translated(f"a command cannot be run in container {container}"):
            await session.open()
        try:
            yield session
        finally:
            await session.close()

    # --- calls without an answer --------------------------------------------------------------------------------------

    async def _post(
        self, path: str, params: Mapping[str, Any] | None = None, *, timeout: aiohttp.ClientTimeout | None = None
    ) -> None:
        await self._call("POST", path, params or {}, timeout=timeout)

    async def _call(
        self, method: str, path: str, params: Mapping[str, Any], *, timeout: aiohttp.ClientTimeout | None = None
    ) -> None:
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        async with self._client._query(path, method=method, params=dict(params), **options) as answer:
            await answer.read()
