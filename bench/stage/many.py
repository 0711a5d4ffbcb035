"""Many small apps at once: one image of two megabytes, registered and deployed over the APIs alone: a hundred are minutes, not hours."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import shutil
import ssl
import tarfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from bench.stage.cluster import Stage
from bench.stage.daemons import Daemons
from lain_cli.config import Config
from lain_shared.errors import Conflict
from tests.fixtures.cluster import App

BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")
SOURCE = "tiny"
PARALLEL = 3
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DEPLOY_SECONDS = 600.0


def tiny(on: Stage) -> App:
    """The app whose image all others run: shipped."""
    app = on.app("tiny", SOURCE)
    binary = next(path for path in BUSYBOX if Path(path).exists())  # Debian's busybox-static
    shutil.copy(binary, app.folder / "busybox")
    app.commit("with busybox")
    app.ship()
    return app


@dataclass(slots=True)
class Registry:
    """The stage's registry, pushed to without an Engine."""

    url: str
    session: aiohttp.ClientSession

    @classmethod
    async def connect(cls, stack: AsyncExitStack, on: Stage) -> Self:
        phase = Config({"LAIN_HOME": str(on.cluster.home)}).phase(on.cluster.name)
        tls = ssl.create_default_context(cafile=phase.ca)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls),
            headers={"Authorization": aiohttp.encode_basic_auth(phase.registry_user, phase.registry_password)},
        )
        return cls(f"https://{on.address}:5000/v2", await stack.enter_async_context(session))

    async def publish(self, app: str, version: str, manifest: str, image: dict[str, Any]) -> None:
        """``version`` of ``app``: this manifest, and the image of ``SOURCE`` (as ``manifest_of`` has it)."""
        for blob in (image["config"], *image["layers"]):
            await self._send("POST", f"/{app}/blobs/uploads/?mount={blob['digest']}&from={SOURCE}", 201)
        await self._put_manifest(app, f"release-{version}", image)
        layer = gzip.compress(_tar("lain.yaml", manifest.encode()), mtime=0)
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}}
        ).encode()
        parts = [await self._blob(app, data) for data in (config, layer)]
        kinds = (CONFIG, LAYER)
        described = [{"mediaType": kind, **part} for kind, part in zip(kinds, parts, strict=True)]
        await self._put_manifest(
            app,
            f"meta-{version}",
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]},
        )

    async def manifest_of(self, app: str, tag: str) -> dict[str, Any]:
        async with self.session.get(f"{self.url}/{app}/manifests/{tag}", headers={"Accept": MANIFEST}) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = json.loads(await answer.read())
            return found

    async def _blob(self, app: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = await self._send("POST", f"/{app}/blobs/uploads/", 202)
        async with self.session.put(f"{location}&digest={digest}", data=data) as answer:
            answer.raise_for_status()
        return {"size": len(data), "digest": digest}

    async def _put_manifest(self, app: str, tag: str, manifest: dict[str, Any]) -> None:
        headers = {"Content-Type": MANIFEST}
        async with self.session.put(
            f"{self.url}/{app}/manifests/{tag}", data=json.dumps(manifest), headers=headers
        ) as answer:
            answer.raise_for_status()

    async def _send(self, method: str, path: str, status: int) -> str:
        async with self.session.request(method, self.url + path) as answer:
            if answer.status != status:
                raise RuntimeError(f"{method} {path} answered {answer.status}: {(await answer.read())[:300]!r}")
            return answer.headers.get("Location", "")


def _tar(name: str, data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


async def deploy_all(on: Stage, source: App, names: Sequence[str], more: str = "") -> None:
    """Register and deploy an app for each name, as ``source`` with ``more`` lines in its proc; all of them run at the end."""
    daemons, version = Daemons(on), source.lain("meta").out.strip()
    text = (source.folder / "lain.yaml").read_text() + more
    gate = asyncio.Semaphore(PARALLEL)
    async with AsyncExitStack() as stack:
        registry = await Registry.connect(stack, on)
        console = await stack.enter_async_context(daemons.console())
        image = await registry.manifest_of(SOURCE, f"release-{version}")

        async def one(name: str) -> None:
            async with gate, asyncio.timeout(DEPLOY_SECONDS):
                await registry.publish(name, version, text.replace(f"appname: {SOURCE}", f"appname: {name}"), image)
                with contextlib.suppress(Conflict):  # of an earlier run
                    await console.register(name)
                accepted = await console.deploy(name, version)
                if accepted.operation is None:
                    return
                ended = await console.wait(name, accepted.operation.id)
                if str(ended.outcome) != "succeeded":
                    raise RuntimeError(f"the deploy of {name} ended {ended.outcome}: {ended.failure}")

        await asyncio.gather(*map(one, names))
