"""The agent as it runs in a cluster: its own etcd user with exactly its families, TLS, and who may ask it what."""

from __future__ import annotations

from pathlib import Path

import pytest

from lain_shared import etcd_auth, keys
from lain_shared.errors import Denied, LainError
from lain_shared.http_client import HttpClient
from lain_shared.model.config import Jwks
from lain_shared.model.pod import PodState
from lain_shared.records import Records
from lain_shared.testing import eventually
from lain_shared.tls import client_context
from tests.fixtures.docker import OwnEngine
from tests.fixtures.etcd import TlsCluster
from tests.integration.deployd.agent_harness import NODE, Bench, order, template


async def test_a_whole_life_under_its_own_rights(etcd_tls: TlsCluster, engine: OwnEngine, tmp_path: Path) -> None:
    user = keys.user_of(keys.AGENT, NODE)
    own = etcd_tls.authority.issue(user)
    async with etcd_tls.connect(etcd_auth.ROOT_USER) as root:
        await etcd_auth.apply(root, [NODE, "n2"])
        bench = Bench(root, engine, tmp_path)
        await bench.prepare()
        await Records(root, keys.CONFIG, Jwks).put(Jwks((), "lain", "lain"), "jwks")
        async with etcd_tls.connect(user) as store:
            async with bench.agent(store=store, tls_dir=own):
                wanted = order(template())
                pod = await bench.give(wanted)
                await bench.until(pod, PodState.RUNNING, ready=True)
                await eventually(lambda: bench.alive.get(NODE), what="presence")
                await eventually(lambda: bench.states.get(NODE), what="the node's state")
                await _callers(etcd_tls, f"https://127.0.0.1:{bench.port}", str(pod))
                await bench.retire(wanted)
            for key in (keys.OBSERVED.key("n2", "a.b-1.g1"), keys.ASSIGN.key(NODE, "a.b-1.g1"), keys.CONFIG.key("x")):
                with pytest.raises(Denied):
                    await store.put(key, b"{}")


async def _callers(cluster: TlsCluster, url: str, pod: str) -> None:
    """The console relays; another daemon may look, not read or run; a stranger may nothing."""
    logs = f"/api/v1/pods/{pod}/logs/"

    def client(name: str) -> HttpClient:
        return HttpClient(url, tls=client_context(cluster.authority.issue(name)))

    async with client(keys.CONSOLE) as console, client(keys.WATCHER) as watcher:
        (told,) = await eventually(lambda: console.get("/api/v1/pods/"), what="the console may look")
        assert told["ready"]
        assert [line async for line in console.stream(logs)] == []
        assert len(await watcher.get("/api/v1/pods/")) == 1
        with pytest.raises(Denied):
            await watcher.get(logs)
    async with HttpClient(url, tls=client_context(None, ca=cluster.authority.issue("x") / "ca.pem")) as stranger:
        with pytest.raises(LainError):
            await stranger.get("/api/v1/pods/")
