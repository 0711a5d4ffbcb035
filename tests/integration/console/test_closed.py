"""The console as it runs in a cluster: TLS on every side, its own etcd user with exactly its families, a registry with a password."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from lain_console.main import console
from lain_console.settings import PREFIX, Settings
from lain_sdk.client import Console
from lain_shared import etcd_auth
from lain_shared.daemon import Health, run_daemon
from lain_shared.errors import Denied, Unavailable
from lain_shared.model.app import Outcome
from lain_shared.model.config import Role
from lain_shared.settings import InvalidSettings, read_settings
from lain_shared.testing import eventually
from tests.fixtures.console import ClusterForConsole, cluster_on, manifest
from tests.fixtures.etcd import TlsCluster
from tests.fixtures.registry import PASSWORD, USER, running_registry


async def test_a_whole_life_under_its_own_rights(etcd_tls: TlsCluster, tmp_path: Path) -> None:
    authority = etcd_tls.authority
    password = tmp_path / "registry-password"
    password.write_text(PASSWORD + "\n")
    folder = authority.issue("console")
    with running_registry(authority.issue("registry")) as images:
        async with etcd_tls.connect("root") as root:
            await etcd_auth.apply(root, ["n1"])
            async with cluster_on(root, images, tmp_path) as cluster:
                health, stop, listening = Health(), asyncio.Event(), asyncio.Future[int]()
                settings = Settings(
                    "c1", etcd_tls.endpoints, images.url, USER, password, folder, cluster.key_file, "127.0.0.1", 0
                )
                async with console(settings, health) as daemon:
                    running = asyncio.create_task(
                        run_daemon(replace(daemon, on_listening=listening.set_result), health=health, stop=stop)
                    )
                    try:
                        url = f"https://127.0.0.1:{await listening}"
                        await eventually(lambda: not health.not_ready(), what="it is ready")
                        token = await cluster.token()
                        async with Console(url, token=token, ca=folder / "ca.pem") as lain:
                            await eventually(lain.whoami, what="the token is known")
                            await _live(lain, cluster)
                        await _strangers(url, token, folder)
                    finally:
                        stop.set()
                        await running


async def _live(lain: Console, cluster: ClusterForConsole) -> None:
    """Everything a console ever writes."""
    await lain.register("hello")
    await lain.set_guests("hello", "hello.lain.localhost", [])
    for version in ("1-aaa", "2-bbb"):
        await cluster.release(version, manifest(procs="web: {cmd: serve, port: 80, mountpoint: [www.example.org]}"))
        deployed = await lain.deploy("hello", version)
        assert deployed.operation is not None
        assert (await lain.wait("hello", deployed.operation.id)).outcome is Outcome.SUCCEEDED
    await lain.explain("hello")
    undone = await lain.undeploy("hello")
    assert undone.operation is not None
    await lain.wait("hello", undone.operation.id)
    issued = await lain.issue_token("ci", Role.MAINTAINER, ["hello"])
    await lain.revoke_token(issued.token.id)
    config = await lain.config("cluster")
    await lain.set_config("cluster", config.value, revision=config.revision)
    assert (await lain.cluster()).nodes == 1 and await lain.apps() == ()
    await lain.unregister("hello")


async def _strangers(url: str, token: str, folder: Path) -> None:
    async with Console(url, tls_dir=folder) as daemon:
        assert (await daemon.whoami()).kind == "daemon"
        with pytest.raises(Denied):
            await daemon.tokens()
    async with Console(url, token=token) as untrusting:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await untrusting.whoami()


def test_settings_are_read_and_wrong_ones_named() -> None:
    good = {f"{PREFIX}ID": "c1", f"{PREFIX}ETCD": "a:1, b:2", f"{PREFIX}REGISTRY": "https://r:5000"}
    settings = read_settings(Settings, PREFIX, good)
    assert (settings.etcd, settings.port, settings.tls_dir) == (("a:1", "b:2"), 9510, None)
    with pytest.raises(InvalidSettings) as invalid:
        read_settings(Settings, PREFIX, {**good, f"{PREFIX}PORT": "x", f"{PREFIX}COLOUR": "red", f"{PREFIX}ID": ""})
    for name in ("PORT", "COLOUR"):
        assert PREFIX + name in str(invalid.value)


async def test_without_certificates_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="TLS_DIR is not set"):
        async with console(Settings("c1", ("127.0.0.1:1",), "http://127.0.0.1:1"), Health()):
            pass
    missing = Settings(
        "c1", ("127.0.0.1:1",), "http://127.0.0.1:1", registry_password_file=tmp_path / "none", listen="127.0.0.1"
    )
    with pytest.raises(InvalidSettings, match="PASSWORD_FILE"):
        async with console(missing, Health()):
            pass
