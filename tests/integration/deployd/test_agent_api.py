"""The agent's API: closed to strangers; output over restarts, the run before, commands inside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lain_shared import keys
from lain_shared.errors import Denied, Invalid, LainError, NotFound, Unauthenticated
from lain_shared.http_client import HttpClient
from lain_shared.model.config import Jwks, Role, Token
from lain_shared.model.pod import PodId, PodState, Volume
from lain_shared.records import Records
from lain_shared.testing import MemoryStore, eventually
from lain_shared.tokens import Signer
from tests.fixtures.docker import OwnEngine
from tests.integration.deployd.agent_harness import Bench, order, template


class Caller:
    """Tokens that the agent's API accepts."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        key = ec.generate_private_key(ec.SECP256R1())
        file = bench.directory / "key.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        self._signer = Signer(file, "lain", "lain")

    async def prepare(self) -> None:
        config = Records(self._bench.store, keys.CONFIG, Jwks)
        await config.put(Jwks((self._signer.public,), "lain", "lain"), "jwks")

    async def token(self, role: Role) -> str:
        now = time.time()
        token = Token(f"t-{role.value}", "me", role, created_at=now, expires_at=now + 600)
        await Records(self._bench.store, keys.TOKENS, Token).put(token, token.id)
        return self._signer.sign(token)


@pytest.fixture
async def bench(engine: OwnEngine, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(MemoryStore(), engine, tmp_path)
    await made.prepare()
    yield made


@pytest.fixture
async def caller(bench: Bench) -> Caller:
    made = Caller(bench)
    await made.prepare()
    return made


async def text_of(client: HttpClient, path: str, **params: object) -> list[str]:
    return [line.decode() async for line in client.stream(path, params=params)]


async def refusal(client: HttpClient, path: str, **params: object) -> type[LainError]:
    with pytest.raises(LainError) as refused:
        await text_of(client, path, **params)
    return type(refused.value)


async def test_strangers_and_viewers_get_nothing(bench: Bench, caller: Caller) -> None:
    async with bench.agent():
        url = await bench.url()
        async with HttpClient(url) as stranger, HttpClient(url, token=await caller.token(Role.VIEWER)) as viewer:
            for path in (
                "/api/v1/pods/",
                "/api/v1/pods/a.b-1.g1/logs/",
                "/api/v1/pods/a.b-1.g1/exec/",
                "/api/v1/volumes/",
            ):
                with pytest.raises(Unauthenticated):
                    await stranger.get(path)
                await eventually(partial(_denied, viewer, path), what="denied")
            assert (await stranger.get("/readyz"))["status"] == "ready"


async def _denied(client: HttpClient, path: str) -> bool:
    try:
        await client.get(path)
    except Denied:
        return True
    return False


async def test_output_and_commands(bench: Bench, caller: Caller) -> None:
    token = await caller.token(Role.OPERATOR)
    async with bench.agent():
        url = await bench.url()
        script = "echo run; echo warning >&2; test -e /tmp/second && exec sleep 3600; touch /tmp/second; exit 1"
        pod = await bench.give(order(template("sh", "-c", script)))
        await bench.until(pod, PodState.RUNNING, ready=True, restarts=1, seconds=20)
        logs = f"/api/v1/pods/{pod}/logs/"
        async with HttpClient(url, token=token) as client:
            (told,) = await client.get("/api/v1/pods/")
            assert (told["app"], told["state"], told["ready"]) == ("hello", "running", True)
            assert sorted(await text_of(client, logs)) == ["run", "run", "warning", "warning"]
            assert len(await text_of(client, logs, tail=1)) == 1
            assert sorted(await text_of(client, logs, previous=True)) == ["run", "warning"]
            assert await text_of(client, logs, since=time.time() + 10) == []
            assert sorted(await text_of(client, logs, previous=True, follow=True)) == ["run", "warning"], "it has ended"
            assert await refusal(client, logs, tail="many") is Invalid
            assert await refusal(client, "/api/v1/pods/no/logs/") is Invalid
            assert await refusal(client, "/api/v1/pods/hello.web-9.g1/logs/") is NotFound
            another = order(template("sleep", "3600"), instance=2)
            fresh = await bench.give(another)
            await bench.until(fresh, PodState.RUNNING, ready=True)
            for more in ({}, {"follow": True}):
                assert await refusal(client, f"/api/v1/pods/{fresh}/logs/", previous=True, **more) is NotFound
            await bench.retire(another)
            await follow_over_a_restart(bench, client, pod)
            await commands(client, pod)
            await losses(bench, client)


async def follow_over_a_restart(bench: Bench, client: HttpClient, pod: PodId) -> None:
    seen: list[bytes] = []

    async def follow() -> None:
        async for line in client.stream(f"/api/v1/pods/{pod}/logs/", params={"follow": True, "tail": 0}, quiet=True):
            seen.append(line)

    following = asyncio.create_task(follow())
    await asyncio.sleep(0.3)
    bench.engine.docker("kill", str(pod))
    await eventually(lambda: sorted(seen) == [b"run", b"warning"], 20, what="the next run's output")
    await bench.until(pod, PodState.RUNNING, ready=True)
    await bench.assign.delete("n1", str(pod))
    await asyncio.wait_for(following, 20)  # it ends when the pod is gone
    again = order(template("sleep", "3600"), instance=3)
    await bench.until(await bench.give(again), PodState.RUNNING)


async def commands(client: HttpClient, gone: PodId) -> None:
    (pod,) = [
        f"{one['app']}.{one['proc']}-{one['instance']}.g{one['generation']}"
        for one in await client.get("/api/v1/pods/")
    ]
    path = f"/api/v1/pods/{pod}/exec/"

    async def run(*words: str, stdin: bytes = b"", **more: str) -> tuple[bytes, bytes, int]:
        out = {1: b"", 2: b""}
        async with client.websocket(path, params=[*(("cmd", word) for word in words), *more.items()]) as socket:
            if stdin:
                await socket.send_bytes(stdin)
                await socket.send_str('{"eof": true}')
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    out[message.data[0]] += message.data[1:]
                elif message.type is aiohttp.WSMsgType.TEXT:
                    return out[1], out[2], message.json()["exit"]
        raise AssertionError("no exit code")

    assert await run("sh", "-c", "echo out; echo err >&2; exit 5") == (b"out\n", b"err\n", 5)
    assert await run("cat", stdin=b"x" * 300_000) == (b"x" * 300_000, b"", 0)
    out, err, code = await run("sh", "-c", "test -t 0 && echo terminal", tty="true")
    assert (out.strip(), err, code) == (b"terminal", b"", 0)
    assert (await run("/nowhere"))[2] != 0
    with pytest.raises(NotFound):
        async with client.websocket(f"/api/v1/pods/{gone}/exec/", params=[("cmd", "sh")]):
            pass
    with pytest.raises(Invalid):
        async with client.websocket(path):
            pass
    with pytest.raises(Invalid, match="this is a WebSocket"):  # nothing is run for who could not see it end
        await client.get(path, params={"cmd": "touch /tmp/ran"})
    assert (await run("test", "-e", "/tmp/ran"))[2] == 1


async def losses(bench: Bench, client: HttpClient) -> None:
    wanted = order(template(volumes=(Volume("/data"),)), proc="db")
    await bench.until(await bench.give(wanted), PodState.RUNNING)
    await bench.retire(wanted)
    (volume,) = await eventually(lambda: client.get("/api/v1/volumes/"), what="the volume")
    assert volume == {"name": "hello.db-1", "path": str(bench.directory / "volumes/hello/db/1"), "missing": False}
    with pytest.raises(NotFound):
        await client.post("/api/v1/volumes/hello.db-1/confirm-loss/")
    (bench.directory / "volumes/hello/db/1").rename(bench.directory / "gone")
    again = order(wanted.template, proc="db")
    pod = await bench.give(again)
    await bench.until(pod, PodState.FAILED)
    await eventually(lambda: _confirm(client), 40, what="the loss can be confirmed")
    await bench.until(pod, PodState.RUNNING)


async def _confirm(client: HttpClient) -> bool:
    return bool((await client.post("/api/v1/volumes/hello.db-1/confirm-loss/"))["confirmed"])
