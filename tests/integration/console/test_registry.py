"""The registry adapter against the stock docker registry: kinds of manifests, files out of layers, what can go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lain_console.adapters.registry import FileMissing, ImageMissing, Registry, RegistryUnavailable
from lain_shared.tls import client_context
from tests.fixtures.certificates import Authority
from tests.fixtures.registry import (
    DOCKER,
    DOCKER_LIST,
    OCI,
    OCI_INDEX,
    PASSWORD,
    USER,
    ImageRegistry,
    layer_of,
    running_registry,
)

NAMES = ("lain.yaml", "lain.yml")


def client(registry: ImageRegistry, **more: object) -> Registry:
    return Registry(registry.url, **{"user": USER, "password": PASSWORD, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [DOCKER, OCI])
@pytest.mark.parametrize("zipped", [True, False])
async def test_a_file_is_read_out_of_an_image_of_either_kind(
    image_registry: ImageRegistry, kind: str, zipped: bool
) -> None:
    image_registry.push("hello", "meta-1-a", {"./lain.yaml": b"appname: hello"}, kind=kind, zipped=zipped)
    async with client(image_registry) as registry:
        assert await registry.read_file("hello", "meta-1-a", NAMES, max_bytes=1000) == b"appname: hello"


async def test_the_topmost_layer_wins(image_registry: ImageRegistry) -> None:
    above = layer_of({"lain.yml": b"new"})
    image_registry.push("hello", "meta-1-a", {"lain.yaml": b"old"}, more_layers=(above, layer_of({"other": b""})))
    async with client(image_registry) as registry:
        assert await registry.read_file("hello", "meta-1-a", NAMES, max_bytes=1000) == b"new"


@pytest.mark.parametrize("kind", [DOCKER_LIST, OCI_INDEX])
async def test_a_list_leads_to_its_first_real_image(image_registry: ImageRegistry, kind: str) -> None:
    single = OCI if kind == OCI_INDEX else DOCKER
    attestation = image_registry.push("hello", "attestation", {"x": b""}, kind=single)
    image = image_registry.push("hello", "amd64", {"lain.yaml": b"text"}, kind=single)
    listed = image_registry.push_list("hello", "meta-1-a", {attestation: "unknown", image: "amd64"}, kind=kind)
    async with client(image_registry) as registry:
        assert await registry.read_file("hello", "meta-1-a", NAMES, max_bytes=1000) == b"text"
        assert await registry.digest("hello", "meta-1-a") == listed


async def test_digests_by_tag_and_by_digest(image_registry: ImageRegistry) -> None:
    digest = image_registry.push("team/hello", "release-1-a", {"app": b"x"})
    async with client(image_registry) as registry:
        await registry.ping()
        assert await registry.digest("team/hello", "release-1-a") == digest
        assert await registry.digest("team/hello", digest) == digest
        with pytest.raises(ImageMissing, match="team/hello:release-2-b"):
            await registry.digest("team/hello", "release-2-b")
        image_registry.delete("team/hello", digest)
        with pytest.raises(ImageMissing):
            await registry.digest("team/hello", digest)


async def test_every_tag_is_listed_however_many_pages_it_takes(image_registry: ImageRegistry) -> None:
    wanted = {f"meta-{number}-a" for number in range(1005)}
    digest = image_registry.push("hello", "first", {"lain.yaml": b"x"})
    links = image_registry.directory / "data/docker/registry/v2/repositories/hello/_manifests/tags"
    for tag in wanted:  # as a push would, without a thousand of them
        (links / tag / "current").mkdir(parents=True)
        (links / tag / "current/link").write_text(digest)
    async with client(image_registry) as registry:
        assert set(await registry.tags("hello")) == wanted | {"first"}
        assert await registry.tags("nobody") == ()


async def test_what_is_not_there_says_so(image_registry: ImageRegistry) -> None:
    image_registry.push("hello", "meta-1-a", {"readme": b"x"})
    image_registry.push("hello", "meta-2-b", {"lain.yaml": b"x" * 2000})
    async with client(image_registry) as registry:
        with pytest.raises(FileMissing, match=r"holds no lain\.yaml"):
            await registry.read_file("hello", "meta-1-a", NAMES, max_bytes=1000)
        with pytest.raises(FileMissing, match="2000 bytes"):
            await registry.read_file("hello", "meta-2-b", NAMES, max_bytes=1000)
        with pytest.raises(ImageMissing):
            await registry.read_file("hello", "meta-3-c", NAMES, max_bytes=1000)


async def test_a_layer_that_is_no_archive_is_named(image_registry: ImageRegistry) -> None:
    image_registry.push("hello", "meta-1-a", {"x": b""}, more_layers=(b"\x1f\x8bnonsense",))
    image_registry.push("hello", "meta-2-b", {"x": b""}, more_layers=(b"(\xb5/\xfdzstd" * 100,))
    async with client(image_registry) as registry:
        for tag in ("meta-1-a", "meta-2-b"):
            with pytest.raises(RegistryUnavailable, match=f"hello:{tag} cannot be read"):
                await registry.read_file("hello", tag, NAMES, max_bytes=1000)


async def test_an_archive_that_unpacks_to_too_much_is_refused(image_registry: ImageRegistry) -> None:
    image_registry.push("hello", "meta-1-a", {"big": b"\0" * (65 * 1024 * 1024)})
    async with client(image_registry) as registry:
        with pytest.raises(RegistryUnavailable, match="cannot be read"):
            await registry.read_file("hello", "meta-1-a", NAMES, max_bytes=1000)


async def test_wrong_credentials_and_none(image_registry: ImageRegistry) -> None:
    for wrong in ({"password": "guess"}, {"user": ""}):
        async with client(image_registry, **wrong) as registry:
            with pytest.raises(RegistryUnavailable, match="refuses the console's credentials"):
                await registry.tags("hello")


async def test_a_registry_that_is_down_says_where_it_should_be(own_registry: ImageRegistry) -> None:
    own_registry.stop()
    async with client(own_registry) as registry:
        with pytest.raises(RegistryUnavailable, match=f"{own_registry.url} cannot be reached") as refused:
            await registry.tags("hello")
        assert refused.value.retry_seconds
        own_registry.start()
        assert await registry.tags("hello") == ()


async def test_tls_by_the_cluster_ca(tmp_path: Path) -> None:
    ours, foreign = Authority(tmp_path / "ours"), Authority(tmp_path / "foreign")
    folder = ours.issue("registry")
    with running_registry(folder) as running:
        running.push("hello", "release-1-a", {"app": b"x"})
        async with client(running, tls=client_context(ca=folder / "ca.pem")) as registry:
            assert await registry.tags("hello") == ("release-1-a",)
        elsewhere = foreign.issue("elsewhere") / "ca.pem"
        async with client(running, tls=client_context(ca=elsewhere)) as registry:
            with pytest.raises(RegistryUnavailable, match="cannot be reached"):
                await registry.tags("hello")
