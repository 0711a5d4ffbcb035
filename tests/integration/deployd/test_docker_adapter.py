"""The adapter to Docker where an Engine is awkward: answers that never end, a container it cannot show, a command that does not end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lain_deployd.adapters.docker import DockerEngine
from lain_deployd.agent.engine import ContainerSpec, ContainerState, Limits
from lain_shared.testing import eventually
from tests.fixtures.docker import OwnEngine

INFO = {
    "ID": "x", "ServerVersion": "20.10.0", "NCPU": 2, "MemTotal": 1 << 30, "KernelVersion": "6", "Containers": 0,
}  # fmt: skip


class Awkward:
    """An Engine's API at a unix socket: what a test puts into it, and output that never ends."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.shown: dict[str, dict[str, Any]] = {}
        self.streams = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/version", self.version)
        app.router.add_get("/v1.41/info", self.info)
        app.router.add_get("/v1.41/containers/json", self.containers)
        app.router.add_get("/v1.41/containers/{id}/json", self.container)
        app.router.add_get("/v1.41/containers/{id}/logs", self.logs)
        return app

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.41", "Version": "20.10.0"})

    async def info(self, _: web.Request) -> web.Response:
        return web.json_response(INFO)

    async def containers(self, _: web.Request) -> web.Response:
        return web.json_response(self.listed)

    async def container(self, request: web.Request) -> web.Response:
        document = self.shown.get(request.match_info["id"])
        if document is None:
            return web.json_response({"message": "layer does not exist"}, status=500)
        return web.json_response(document)

    async def logs(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.streams += 1
        await asyncio.Event().wait()
        return response


@pytest.fixture
async def awkward(tmp_path: Path) -> AsyncIterator[tuple[Awkward, DockerEngine]]:
    made = Awkward()
    runner = web.AppRunner(made.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    path = str(tmp_path / "docker.sock")
    await web.UnixSite(runner, path).start()
    async with DockerEngine.connect(path) as engine:
        yield made, engine
    await runner.cleanup()


async def test_however_many_follow_its_output_an_engine_can_be_asked(awkward: tuple[Awkward, DockerEngine]) -> None:
    """Each ``lain logs --follow`` is a connection; the hundred and first question waited for one of them to end."""
    made, engine = awkward
    async with AsyncExitStack() as stack:
        for _ in range(120):
            async with asyncio.timeout(5):
                await stack.enter_async_context(engine.logs("x", follow=True))
        async with asyncio.timeout(5):
            assert (await engine.info()).version == "20.10.0"
        assert made.streams == 120


def listed(name: str, state: str) -> dict[str, Any]:
    return {
        "Id": name, "Names": [f"/{name}"], "State": state, "Image": "app", "Created": 5, "Labels": {"lain.pod": name},
        "NetworkSettings": {"Networks": {"lain": {"IPAMConfig": {"IPv4Address": "172.20.1.9"}}}},
    }  # fmt: skip


async def test_a_container_that_the_engine_cannot_show_hides_no_other(awkward: tuple[Awkward, DockerEngine]) -> None:
    """Its layer is gone from the disk: the Engine lists it, and fails to inspect it. What does not run may be made anew."""
    made, engine = awkward
    made.listed = [listed("well", "running"), listed("ended", "exited"), listed("runs", "running")]
    made.shown["well"] = {
        "Id": "well", "Name": "/well", "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"},
        "HostConfig": {"Memory": 5}, "Config": {"Image": "app", "Labels": {"lain.pod": "well"}},
    }  # fmt: skip
    found = {one.id: one for one in await engine.containers({"lain.pod": ""})}
    assert {name: one.state for name, one in found.items()} == {
        "well": ContainerState.RUNNING, "ended": ContainerState.DEAD, "runs": ContainerState.RUNNING,
    }  # fmt: skip
    assert found["ended"].labels == {"lain.pod": "ended"} and found["ended"].address == "172.20.1.9"


@pytest.mark.docker
async def test_a_command_that_does_not_end_is_not_begun_again_and_again(engine: OwnEngine) -> None:
    """Docker cannot end it: a probe that hangs would leave one more process with each try, until the container is out of memory."""
    async with DockerEngine.connect(str(engine.socket)) as docker:
        container = await docker.create(
            ContainerSpec(
                "hangs", "tiny:1", {}, Limits(16 << 20), command=("sleep", "infinity"), stop_timeout_seconds=1
            )
        )
        await docker.start(container)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await docker.run(container, ("sleep", "300"), 0.5)
        assert engine.docker("top", container).count("sleep 300") == 1
        assert (await docker.run(container, ("sh", "-c", "exit 3"), 10.0)).exit_code == 3
        with pytest.raises(TimeoutError):
            await docker.run(container, ("sh", "-c", "sleep 1"), 0.3)

        async def ended() -> bool:
            try:
                return (await docker.run(container, ("sh", "-c", "sleep 1"), 10.0)).exit_code == 0
            except TimeoutError:
                return False

        await eventually(ended, what="it has ended, and is run again")
        await docker.remove(container)
