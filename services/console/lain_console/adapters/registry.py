"""The cluster's image registry, read over its HTTP API (Docker Registry HTTP API v2, OCI Distribution 1.1). Nothing is ever pulled.

Manifests come as Docker schema 2 or OCI, single or as a list; a file is read out of a layer's tar. Every byte used is checked against its
digest. No exception of aiohttp leaves this module.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import ssl
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from lain_shared.errors import NotFound, Unavailable

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
LIST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
ACCEPT = ", ".join(MANIFEST_TYPES + LIST_TYPES)
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_LAYER_BYTES = 8 * 1024 * 1024
"""A layer larger than this is not one that ``lain meta`` made: it holds one small file."""
MAX_UNPACKED_BYTES = 64 * 1024 * 1024
MAX_PAGES = 1000


class RegistryUnavailable(Unavailable):
    """The registry cannot be asked now, or answers what cannot be understood."""

    code = "registry_unavailable"


class ImageMissing(NotFound):
    """There is no such tag or digest."""

    code = "image_missing"


class FileMissing(NotFound):
    """No layer of the image has that file."""

    code = "file_missing"


@dataclass(frozen=True, slots=True)
class _Manifest:
    digest: str
    media_type: str
    document: Mapping[str, Any]


class Registry:
    """One registry. ``url``: ``https://host:port``; ``tls``: how to verify it; ``user``/``password``: basic authentication."""

    def __init__(
        self,
        url: str,
        *,
        user: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        self.url = url.rstrip("/")
        self._auth = aiohttp.encode_basic_auth(user, password) if user else None
        self._tls = tls
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, connect=3.0)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"Authorization": self._auth} if self._auth else {}
        connector = aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True)
        self._session = aiohttp.ClientSession(headers=headers, timeout=self._timeout, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- what the console asks ----------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Raises ``RegistryUnavailable`` unless the registry answers and lets us in."""
        await self._fetch("GET", "/v2/", limit=64 * 1024)

    async def tags(self, repository: str) -> tuple[str, ...]:
        """Every tag of ``repository``; none when it does not exist."""
        found: list[str] = []
        path: str | None = f"/v2/{repository}/tags/list?n=1000"
        for _ in range(MAX_PAGES):
            if path is None:
                break
            try:
                headers, body = await self._fetch("GET", path, limit=MAX_MANIFEST_BYTES)
            except ImageMissing:
                return ()
            found.extend(self._json(body, path).get("tags") or ())
            path = _next_page(headers.get("Link", ""))
        return tuple(found)

    async def digest(self, repository: str, reference: str) -> str:
        """The digest a tag stands for now (of the list, when there is one). Raises ``ImageMissing``."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers, _ = await self._fetch("HEAD", path, headers={"Accept": ACCEPT}, limit=0)
        digest = headers.get("Docker-Content-Digest", "")
        if not digest:  # optional in the standard: then it is the digest of the document
            digest = (await self._manifest(repository, reference)).digest
        return digest

    async def read_file(self, repository: str, reference: str, names: tuple[str, ...], *, max_bytes: int) -> bytes:
        """The content of the first of ``names`` (paths without a leading slash) in the image's topmost layer that has one.

        Raises ``ImageMissing``, ``FileMissing``, ``RegistryUnavailable``.
        """
        manifest = await self._image_manifest(repository, reference)
        for layer in reversed(manifest.document.get("layers") or ()):
            size, digest = layer.get("size", 0), str(layer.get("digest", ""))
            if size > MAX_LAYER_BYTES:
                continue
            _, blob = await self._fetch("GET", f"/v2/{repository}/blobs/{digest}", limit=MAX_LAYER_BYTES)
            self._check(digest, blob, f"{repository}@{digest}")
            content = await asyncio.to_thread(_file_in_layer, blob, names, max_bytes, f"{repository}:{reference}")
            if content is not None:
                return content
        raise FileMissing(
            f"image {repository}:{reference} holds no {names[0]}",
            why="no layer of it has that file",
            next="build and push it again: lain build && lain push",
        )

    # --- manifests ----------------------------------------------------------------------------------------------------

    async def _image_manifest(self, repository: str, reference: str) -> _Manifest:
        """The manifest of one image; of a list, its first real image (attestations have no platform)."""
        manifest = await self._manifest(repository, reference)
        if manifest.media_type not in LIST_TYPES:
            return manifest
        for entry in manifest.document.get("manifests") or ():
            if (entry.get("platform") or {}).get("os") not in (None, "unknown") or "platform" not in entry:
                return await self._manifest(repository, str(entry.get("digest")))
        raise ImageMissing(f"image list {repository}:{reference} names no image")

    async def _manifest(self, repository: str, reference: str) -> _Manifest:
        path = f"/v2/{repository}/manifests/{reference}"
        headers, body = await self._fetch("GET", path, headers={"Accept": ACCEPT}, limit=MAX_MANIFEST_BYTES)
        if reference.startswith("sha256:"):
            self._check(reference, body, f"{repository}@{reference}")
        document = self._json(body, path)
        media_type = str(document.get("mediaType") or headers.get("Content-Type", "").partition(";")[0])
        if media_type not in (*MANIFEST_TYPES, *LIST_TYPES):
            raise RegistryUnavailable(
                f"image {repository}:{reference} is of a kind LAIN cannot read: {media_type or 'unknown'}",
                next="push it again with a current client",
                code="unknown_image_kind",
            )
        return _Manifest("sha256:" + hashlib.sha256(body).hexdigest(), media_type, document)

    # --- the wire -----------------------------------------------------------------------------------------------------

    async def _fetch(
        self, method: str, path: str, *, limit: int, headers: Mapping[str, str] | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        if self._session is None:
            raise RuntimeError("Registry is used outside its context")
        try:
            url = URL(self.url + path, encoded=True)
            async with self._session.request(method, url, headers=headers) as answer:
                body = await answer.content.read(limit + 1) if method == "GET" else b""
                while method == "GET" and len(body) <= limit and (more := await answer.content.read(limit + 1)):
                    body += more
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RegistryUnavailable(
                f"the registry {self.url} cannot be reached",
                why=str(error) or type(error).__name__,
                next="look whether it runs: lain local status, or docker ps on its node",
                retry_seconds=2.0,
            ) from error
        self._judge(answer.status, answer.reason or "", path)
        if len(body) > limit:
            raise RegistryUnavailable(f"{self.url}{path} answers more than {limit} bytes", code="answer_too_large")
        return answer.headers, body

    def _judge(self, status: int, reason: str, path: str) -> None:
        if status == 404:
            raise ImageMissing(f"the registry has no {_named(path)}")
        if status in (401, 403):
            raise RegistryUnavailable(
                f"the registry {self.url} refuses the console's credentials",
                why=f"{status} {reason}",
                next="check LAIN_CONSOLE_REGISTRY_USER and LAIN_CONSOLE_REGISTRY_PASSWORD_FILE",
                code="registry_refuses_us",
            )
        if status >= 400:
            raise RegistryUnavailable(
                f"the registry {self.url} answered {status} {reason}", evidence={"path": path}, retry_seconds=2.0
            )

    def _json(self, body: bytes, path: str) -> Mapping[str, Any]:
        try:
            document = msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise RegistryUnavailable(f"{self.url}{path} did not answer JSON", why=str(error)) from error
        if not isinstance(document, dict):
            raise RegistryUnavailable(f"{self.url}{path} did not answer a JSON object")
        return document

    def _check(self, digest: str, body: bytes, what: str) -> None:
        if digest != "sha256:" + hashlib.sha256(body).hexdigest():
            raise RegistryUnavailable(f"{what} is damaged: its content has another digest", code="damaged_image")


def _next_page(link: str) -> str | None:
    """The path in ``Link: </v2/…?last=x&n=1000>; rel="next"``."""
    if 'rel="next"' not in link:
        return None
    target = link.partition("<")[2].partition(">")[0]
    return URL(target, encoded=True).raw_path_qs if target else None


def _named(path: str) -> str:
    """``/v2/hello/manifests/meta-1`` → ``hello:meta-1``."""
    repository, _, reference = path.removeprefix("/v2/").partition("/manifests/")
    if not reference:
        return path.removeprefix("/v2/").partition("?")[0]
    return f"{repository}@{reference}" if reference.startswith("sha256:") else f"{repository}:{reference}"


def _file_in_layer(blob: bytes, names: tuple[str, ...], max_bytes: int, image: str) -> bytes | None:
    """The content of one of ``names`` in a layer (a tar, plain or gzipped); None when it has none."""
    try:
        unpacked = _unpack(blob)
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            for member in tar:
                if member.isfile() and member.name.removeprefix("./").removeprefix("/") in names:
                    if member.size > max_bytes:
                        raise FileMissing(
                            f"{member.name} in image {image} has {member.size} bytes, at most {max_bytes} are read",
                            code="file_too_large",
                        )
                    content = tar.extractfile(member)
                    return content.read() if content is not None else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise RegistryUnavailable(
            f"a layer of image {image} cannot be read",
            why=str(error),
            next="layers are tar archives, plain or gzipped; push the image again",
            code="unreadable_layer",
        ) from error
    return None


def _unpack(blob: bytes) -> bytes:
    if blob[:2] != b"\x1f\x8b":
        return blob
    with gzip.GzipFile(fileobj=io.BytesIO(blob)) as file:
        unpacked = file.read(MAX_UNPACKED_BYTES + 1)
    if len(unpacked) > MAX_UNPACKED_BYTES:
        raise OSError(f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    return unpacked
