"""Who puts containers on a node, side by side: LAIN through its console, Swarm through its API, and bare calls to an Engine as the floor.

All are told the same and give their containers the same options, as far as they can say them (Swarm mode of this Engine knows neither a
fixed address nor ``no-new-privileges``). All containers carry the label ``lain.app=<app>``; which of them run is asked of the Engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bench.stage.peers import EngineApi, EngineRefused, NodeContainer
from lain_deployd.adapters import docker_json
from lain_deployd.agent.spec import BRIDGE, NETWORK, Place, container_of
from lain_sdk.client import Console
from lain_shared.errors import Conflict, LainError
from lain_shared.model.app import HistoryRecord, Outcome
from lain_shared.model.pod import Assignment, PodTemplate, ProcType
from tests.fixtures.cluster import LocalCluster
from tests.fixtures.docker import tiny_image

IMAGE = "lain-bench/tiny:1"
COMMAND = ("sh", "-c", "trap 'exit 0' TERM; httpd -f -p 8000 & wait")
"""Listens on a TCP port, and ends on SIGTERM at once: nobody's kill timeout is what is measured."""
PORT = 8000
MEMORY_BYTES = 16 * 1024 * 1024
KILL_TIMEOUT_SECONDS = 10
VERSION = "BENCH_VERSION"
"""The variable that tells two versions of an app apart."""
LABEL = "lain.app"
VERSION_LABEL = "bench.version"
PARALLEL = 4
"""Calls of the bare contender at a time: more does not help."""
PEER_BLOCK = "172.20.1.0/24"
ARCHIVE: Mapping[str, str] = {"Content-Type": "application/x-tar"}
WAIT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Victim:
    """A container something is done to."""

    app: str
    id: str


class Scheduler(Protocol):
    """One contender. Every call returns once the order is given (bare: once it is done); ``settled`` once all its own work is over."""

    node: NodeContainer
    engine: EngineApi

    @property
    def name(self) -> str: ...

    async def deploy(self, app: str, instances: int) -> None: ...

    async def scale(self, app: str, instances: int) -> None: ...

    async def update(self, app: str) -> None:
        """Roll out another version, one by one, each new one started before its predecessor ends."""

    async def undeploy(self, app: str) -> None: ...

    async def replace(self, victim: Victim) -> None:
        """Whatever has to be done by hand for a container that is gone or ended."""

    async def settled(self, app: str) -> None: ...

    async def awake(self) -> None:
        """After a thaw: until it can take orders."""


def template(version: int) -> PodTemplate:
    """What all of them run."""
    return PodTemplate(
        image=IMAGE, command=COMMAND, memory_bytes=MEMORY_BYTES, kill_timeout_seconds=KILL_TIMEOUT_SECONDS, port=PORT,
        env={VERSION: str(version)}, labels={VERSION_LABEL: str(version)},
    )  # fmt: skip


# --- LAIN -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lain:
    """The console's API, as a script of anybody's would use it. Apps are shipped beforehand, in two versions each."""

    node: NodeContainer
    engine: EngineApi
    console: Console
    cluster: LocalCluster
    folder: Path
    name: str = "lain"
    sizes: dict[str, int] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=dict)
    _running: dict[str, int] = field(default_factory=dict)
    _operations: dict[str, str] = field(default_factory=dict)

    async def prepare(self, apps: Mapping[str, int]) -> None:
        """Bring the image to the registry under each app, and register it."""
        for app, instances in apps.items():
            await asyncio.to_thread(self._push, app, instances)
            with contextlib.suppress(Conflict):  # a cluster that is kept while a proof is written has it from before
                await self.console.register(app)

    def _push(self, app: str, instances: int) -> None:
        here = self.folder / app
        here.mkdir()
        self.cluster.run("git", "init", "-q", ".", cwd=here)
        self.versions[app], self.sizes[app] = [], instances
        for version in (1, 2):
            (here / "lain.yaml").write_text(manifest(app, instances, version))
            who = ("-c", "user.name=LAIN", "-c", "user.email=lain@localhost")
            moment = f"{1_700_000_000 + version * 60} +0000"
            dates = {"GIT_AUTHOR_DATE": moment, "GIT_COMMITTER_DATE": moment}
            self.cluster.run("git", "add", "--all", cwd=here)
            self.cluster.run("git", *who, "commit", "-q", "-m", str(version), cwd=here, environ=dates)
            self.cluster.lain("build", cwd=here)
            self.cluster.lain("push", cwd=here)
            self.versions[app].append(self.cluster.lain("meta", cwd=here).out.strip())

    async def deploy(self, app: str, instances: int) -> None:
        """``instances`` are those of its manifest."""
        assert self.sizes[app] == instances
        self._running[app] = 0
        await self._deploy(app)

    async def update(self, app: str) -> None:
        self._running[app] = 1 - self._running[app]
        await self._deploy(app)

    async def _deploy(self, app: str) -> None:
        accepted = await self.console.deploy(app, self.versions[app][self._running[app]])
        self._began(app, accepted.operation)

    async def scale(self, app: str, instances: int) -> None:
        self._began(app, (await self.console.scale(app, "web", instances)).operation)

    async def undeploy(self, app: str) -> None:
        self._began(app, (await self.console.undeploy(app)).operation)

    async def replace(self, victim: Victim) -> None:
        """Nothing: it is LAIN's to notice."""

    def _began(self, app: str, operation: Any) -> None:
        if operation is not None:
            self._operations[app] = operation.id

    async def settled(self, app: str) -> None:
        if app not in self._operations:
            return
        async with asyncio.timeout(WAIT_SECONDS):
            ended: HistoryRecord = await self.console.wait(app, self._operations.pop(app))
        if ended.outcome is not Outcome.SUCCEEDED:
            raise AssertionError(f"{app}: its {ended.kind.value} ended as {ended.outcome.value}: {ended.failure}")

    async def awake(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await self._well():  # noqa: ASYNC110 - it is another process that gets well
                await asyncio.sleep(0.1)

    async def _well(self) -> bool:
        """Every part is ready, and the node counts as present."""
        try:
            cluster = await self.console.cluster()
        except LainError:
            return False
        parts = await asyncio.to_thread(
            lambda: self.cluster.lain("local", "status", "--name", self.cluster.name, "-o", "json").json()["parts"]
        )
        return cluster.nodes_alive == cluster.nodes > 0 and all(part["ready"] for part in parts)


def manifest(app: str, instances: int, version: int) -> str:
    """``template`` as a person writes it."""
    return f"""appname: {app}
image: {IMAGE}

web:
  cmd: [{", ".join('"' + word + '"' for word in COMMAND)}]
  port: {PORT}
  memory: {MEMORY_BYTES // 2**20}m
  num_instances: {instances}
  kill_timeout: {KILL_TIMEOUT_SECONDS}
  env: ["{VERSION}={version}"]
  labels: ["{VERSION_LABEL}:{version}"]
"""


# --- the floor --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Bare:
    """The Engine's API and nothing else: ``PARALLEL`` calls at a time, the bodies those our agent sends."""

    node: NodeContainer
    engine: EngineApi
    name: str = "bare"
    _network: str = PEER_BLOCK
    _containers: dict[str, list[tuple[str, Assignment, str]]] = field(default_factory=dict)
    """App → (id, what it is, address), the oldest first."""
    _version: dict[str, int] = field(default_factory=dict)
    _addresses: Any = field(default_factory=lambda: itertools.cycle(range(2, 255)))
    _generations: Any = field(default_factory=lambda: itertools.count(1))

    async def prepare(self) -> None:
        await self.engine.call("POST", "images/create", tiny_image(), headers=ARCHIVE, fromSrc="-", **_named(IMAGE))
        await self.engine.call("POST", "networks/create", docker_json.network(NETWORK, self._network, BRIDGE, 20))

    async def deploy(self, app: str, instances: int) -> None:
        self._containers[app], self._version[app] = [], 1
        await self.scale(app, instances)

    async def scale(self, app: str, instances: int) -> None:
        there = self._containers[app]
        if instances > len(there):
            numbers = range(len(there) + 1, instances + 1)
            there += await _each([self._start(app, number) for number in numbers])
        else:
            surplus = there[instances:]
            del there[instances:]
            await _each([self._end(one[0]) for one in surplus])

    async def update(self, app: str) -> None:
        self._version[app] += 1
        there = self._containers[app]
        for at, (old, what, _) in enumerate(tuple(there)):
            there[at] = await self._start(app, what.instance)
            await self._end(old)

    async def undeploy(self, app: str) -> None:
        await _each([self._end(one[0]) for one in self._containers.pop(app)])

    async def replace(self, victim: Victim) -> None:
        """An ended container is started, one that is gone is made anew."""
        there = self._containers[victim.app]
        at = next(at for at, one in enumerate(there) if one[0] == victim.id)
        try:
            await self.engine.call("POST", f"containers/{victim.id}/start")
        except EngineRefused:
            there[at] = await self._start(victim.app, there[at][1].instance)

    async def settled(self, app: str) -> None:
        """Its calls return when all is done."""

    async def awake(self) -> None:
        await self.engine.call("GET", "info")

    async def _start(self, app: str, instance: int) -> tuple[str, Assignment, str]:
        what = Assignment(
            app=app, proc="web", instance=instance, generation=next(self._generations), type=ProcType.WEB, release=1,
            template=template(self._version[app]),
        )  # fmt: skip
        prefix = self._network.rpartition(".")[0]
        address = f"{prefix}.{next(self._addresses)}"
        spec = container_of(what, address, Place("n1", "", PurePosixPath("/var/lib/lain/volumes"), 2))
        made = await self.engine.call("POST", "containers/create", docker_json.create(spec), name=spec.name)
        await self.engine.call("POST", f"containers/{made['Id']}/start")
        return made["Id"], what, address

    async def _end(self, container: str) -> None:
        await self.engine.call("POST", f"containers/{container}/stop", t=KILL_TIMEOUT_SECONDS)
        await self.engine.call("DELETE", f"containers/{container}", force=True, v=True)


async def _each(calls: Sequence[Any]) -> list[Any]:
    gate = asyncio.Semaphore(PARALLEL)

    async def one(call: Any) -> Any:
        async with gate:
            return await call

    return list(await asyncio.gather(*(one(call) for call in calls)))


def _named(image: str) -> dict[str, str]:
    repo, _, tag = image.partition(":")
    return {"repo": repo, "tag": tag}


# --- Swarm ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Swarm:
    """A swarm of one node. ``tuned``: heartbeat of 1 s and no delay before a restart, instead of 5 s each."""

    node: NodeContainer
    engine: EngineApi
    tuned: bool = False
    _network: str = ""
    _image: str = ""
    """By its id: a tag is looked for at a hub for each container, whether the image is there or not."""
    _version: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "swarm tuned" if self.tuned else "swarm"

    async def prepare(self) -> None:
        await self.engine.call("POST", "images/create", tiny_image(), headers=ARCHIVE, fromSrc="-", **_named(IMAGE))
        self._image = (await self.engine.call("GET", f"images/{IMAGE}/json"))["Id"]
        heartbeat = {"HeartbeatPeriod": 1_000_000_000} if self.tuned else {}
        await self.engine.call(
            "POST", "swarm/init",
            {"ListenAddr": "0.0.0.0:2377", "AdvertiseAddr": "eth0", "Spec": {"Dispatcher": heartbeat}},
        )  # fmt: skip
        # the same bridge as everyone's: a swarm takes a network of its node by way of a configuration
        body = docker_json.network(NETWORK + "-config", PEER_BLOCK, BRIDGE, 20)
        await self.engine.call("POST", "networks/create", {**body, "Driver": "", "ConfigOnly": True})
        made = await self.engine.call(
            "POST", "networks/create",
            {"Name": NETWORK, "Driver": "bridge", "Scope": "swarm", "ConfigFrom": {"Network": NETWORK + "-config"}},
        )  # fmt: skip
        self._network = made["Id"]

    async def deploy(self, app: str, instances: int) -> None:
        self._version[app] = 1
        await self.engine.call("POST", "services/create", self._service(app, instances))

    async def scale(self, app: str, instances: int) -> None:
        await self._change(app, instances)

    async def update(self, app: str) -> None:
        self._version[app] += 1
        found = await self.engine.call("GET", f"services/{app}")
        await self._change(app, found["Spec"]["Mode"]["Replicated"]["Replicas"])

    async def _change(self, app: str, instances: int) -> None:
        found = await self.engine.call("GET", f"services/{app}")
        await self.engine.call(
            "POST", f"services/{app}/update", self._service(app, instances), version=found["Version"]["Index"]
        )

    async def undeploy(self, app: str) -> None:
        await self.engine.call("DELETE", f"services/{app}")

    async def replace(self, victim: Victim) -> None:
        """Nothing: it is Swarm's to notice."""

    async def settled(self, app: str) -> None:
        """Until it holds no update in progress."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    found = await self.engine.call("GET", f"services/{app}")
                except EngineRefused:
                    return
                if (found.get("UpdateStatus") or {}).get("State", "completed") == "completed":
                    return
                await asyncio.sleep(0.1)

    async def awake(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                nodes = await self.engine.call("GET", "nodes")
                if all(node["Status"]["State"] == "ready" for node in nodes):
                    return
                await asyncio.sleep(0.1)

    def _service(self, app: str, instances: int) -> dict[str, Any]:
        """The bodies of ``Bare``, in Swarm's words."""
        what = Assignment(
            app=app, proc="web", instance=1, generation=1, type=ProcType.WEB, release=1,
            template=template(self._version[app]),
        )  # fmt: skip
        body = docker_json.create(container_of(what, "", Place("n1", "", PurePosixPath("/var/lib/lain/volumes"), 2)))
        host = body["HostConfig"]
        _, target, _ = host["Binds"][0].split(":")
        return {
            "Name": app,
            "TaskTemplate": {
                "ContainerSpec": {
                    "Image": self._image,
                    "Args": body["Cmd"],
                    "Labels": body["Labels"],
                    "Env": body["Env"],
                    "Hostname": "web-{{.Task.Slot}}",
                    "Healthcheck": body["Healthcheck"],
                    "StopGracePeriod": KILL_TIMEOUT_SECONDS * 1_000_000_000,
                    "CapabilityDrop": host["CapDrop"],
                    "CapabilityAdd": [f"CAP_{name}" for name in host["CapAdd"]],
                    "Ulimits": host["Ulimits"],
                    "Mounts": [{"Type": "bind", "Source": "/var/lib/lain", "Target": target}],
                },
                "Resources": {"Limits": {"MemoryBytes": host["Memory"], "Pids": host["PidsLimit"]}},
                "RestartPolicy": {"Condition": "any", **({"Delay": 0} if self.tuned else {})},
                "Networks": [{"Target": self._network}],
                "LogDriver": {"Name": host["LogConfig"]["Type"], "Options": host["LogConfig"]["Config"]},
            },
            "Mode": {"Replicated": {"Replicas": instances}},
            "UpdateConfig": {"Parallelism": 1, "Order": "start-first"},
            "EndpointSpec": {"Mode": "dnsrr"},
        }
