"""An agent in the test's process, on real etcd and an Engine of the tests' own; the test plays the leader and the routers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent.main import assembled
from lain_deployd.agent.settings import Settings
from lain_shared import keys
from lain_shared.daemon import Daemon, Health, run_daemon
from lain_shared.http_client import HttpClient
from lain_shared.model.config import ClusterConfig
from lain_shared.model.node import Alive, Block, NodeState
from lain_shared.model.pod import Assignment, Observed, PodId, PodState, PodTemplate, ProcType
from lain_shared.model.route import Endpoints
from lain_shared.records import Records
from lain_shared.store import Store
from lain_shared.testing import eventually
from tests.fixtures.docker import REGISTRY_PASSWORD, REGISTRY_USER, OwnEngine

NODE = "n1"
MIB = 1024 * 1024
_generations = itertools.count(int(time.time()) * 10)


def template(*command: str, **more: Any) -> PodTemplate:
    given: dict[str, Any] = {
        "image": "tiny:1",
        "command": command or ("sleep", "3600"),
        "memory_bytes": 16 * MIB,
        "kill_timeout_seconds": 1,
    }
    return PodTemplate(**{**given, **more})


def order(what: PodTemplate, app: str = "hello", proc: str = "web", instance: int = 1, **more: Any) -> Assignment:
    given: dict[str, Any] = {"type": ProcType.WORKER, "release": 1, "generation": next(_generations)}
    return Assignment(app=app, proc=proc, instance=instance, template=what, **{**given, **more})


@dataclass
class Bench:
    """What the agent works between: etcd and an Engine."""

    store: Store
    engine: OwnEngine
    directory: Path
    registry: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.assign = Records(self.store, keys.ASSIGN, Assignment)
        self.observed = Records(self.store, keys.OBSERVED, Observed)
        self.endpoints = Records(self.store, keys.ENDPOINTS, Endpoints)
        self.states = Records(self.store, keys.NODES_STATE, NodeState)
        self.alive = Records(self.store, keys.ALIVE, Alive)
        self.blocks = Records(self.store, keys.BLOCKS, Block)
        self.port = 0

    async def prepare(self) -> None:
        cluster = ClusterConfig("test", "lain.localhost", pod_network=self.engine.pod_network)
        await Records(self.store, keys.CONFIG, ClusterConfig).put(cluster, "cluster")

    @asynccontextmanager
    async def agent(self, *, store: Store | None = None, **more: Any) -> AsyncIterator[Daemon]:
        """A running agent (on a ``store`` of its own, if given); leaving the context stops it as SIGTERM does."""
        password = self.directory / "password"
        password.write_text(REGISTRY_PASSWORD)
        given: dict[str, Any] = {
            "etcd": ("unused",), "node": NODE, "listen": "127.0.0.1", "port": 0, "docker": str(self.engine.socket),
            "state_dir": self.directory / "state", "volumes_root": self.directory / "volumes", "registry": self.registry,
            "registry_user": REGISTRY_USER if self.registry else "", "registry_password_file": password,
        }  # fmt: skip
        settings = Settings(**{**given, **self.settings, **more})
        async with DockerEngine.connect(settings.docker) as engine:
            health, self.port = Health(), 0
            daemon = assembled(settings, health, store or self.store, engine, on_listening=self._listens)
            stop = asyncio.Event()
            running = asyncio.create_task(run_daemon(daemon, health=health, stop=stop))
            try:
                yield daemon
            finally:
                stop.set()
                await running

    def _listens(self, port: int) -> None:
        self.port = port

    async def url(self) -> str:
        """Where the running agent's API is, once it knows whom to trust and is ready."""
        await eventually(lambda: self.port, what="the agent listens")
        url = f"http://127.0.0.1:{self.port}"
        async with HttpClient(url) as client:
            await eventually(lambda: client.get("/readyz"), what="the agent is ready")
        return url

    async def give(self, wanted: Assignment) -> PodId:
        await self.assign.put(wanted, NODE, str(wanted.pod))
        return wanted.pod

    async def retire(self, wanted: Assignment) -> None:
        """Tell the agent to stop it; when it is gone, take the order away, as the leader does."""
        await self.give(replace(wanted, run=False))
        await eventually(lambda: self.gone(wanted.pod), what=f"{wanted.pod} is gone")
        await self.assign.delete(NODE, str(wanted.pod))

    async def see(self, pod: PodId) -> Observed | None:
        stored = await self.observed.get(NODE, str(pod))
        return None if stored is None else stored.value

    async def gone(self, pod: PodId) -> bool:
        return await self.see(pod) is None

    async def until(
        self,
        pod: PodId,
        state: PodState | None = None,
        *,
        ready: bool | None = None,
        seconds: float = 15.0,
        **fields: Any,
    ) -> Observed:
        """Wait until ``observed`` says this of the pod."""

        async def look() -> Observed | None:
            seen = await self.see(pod)
            assert seen is not None, "nothing observed"
            wanted = {
                **({} if state is None else {"state": state}),
                **({} if ready is None else {"ready": ready}),
                **fields,
            }
            assert all(getattr(seen, name) == value for name, value in wanted.items()), seen
            return seen

        found = await eventually(look, seconds, what=f"{pod} {state} ready={ready} {fields}", interval_seconds=0.02)
        assert found is not None
        return found

    def containers(self, *, everything: bool = True) -> list[str]:
        return self.engine.docker("ps", *(["-a"] if everything else []), "--format", "{{.Names}}").split()
