"""The watcher as a process of its own, over mTLS, as its container runs it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.http_client import HttpClient
from lain_shared.model.route import Endpoint, Endpoints, Route, RouterState
from lain_shared.records import Records
from lain_shared.testing import eventually
from lain_shared.tls import client_context
from tests.fixtures.etcd import TlsCluster, free_ports
from tests.fixtures.nginx import NginxBox

MAIN = "from lain_watcher.main import main; main()"


async def test_it_serves_routes_and_ends_by_sigterm(
    etcd_tls: TlsCluster, nginx_box: NginxBox, backends: Callable[..., Any], tmp_path: Path
) -> None:
    (one,) = await backends("one")
    folder, (port,) = etcd_tls.authority.issue("watcher"), free_ports(1)
    environ = {
        **os.environ,
        "LAIN_WATCHER_ROUTER": "r1",
        "LAIN_WATCHER_ETCD": ",".join(etcd_tls.endpoints),
        "LAIN_WATCHER_TLS_DIR": str(folder),
        "LAIN_WATCHER_STATE_DIR": str(nginx_box.shared),
        "LAIN_WATCHER_LISTEN": "127.0.0.1",
        "LAIN_WATCHER_PORT": str(port),
    }
    nginx_box.settings["LAIN_NGINX_WAIT_SECONDS"] = "30"
    log = tmp_path / "log"
    watcher = _start(environ, log)
    try:
        await asyncio.to_thread(nginx_box.start)
        async with (
            etcd_tls.connect("deployd") as store,
            HttpClient(f"https://127.0.0.1:{port}", tls=client_context(folder)) as api,
            HttpClient(f"https://127.0.0.1:{port}", tls=client_context(ca=folder / "ca.pem")) as stranger,
        ):
            record = Endpoints(
                "hello", "web", one.port, (Route("hello.example"),), ready=(Endpoint(1, 1, one.address),)
            )
            revision = await Records(store, keys.ENDPOINTS, Endpoints).put(record, "hello", "web")

            async def applied() -> bool:
                stored = await Records(store, keys.ROUTERS, RouterState).get("r1")
                return stored is not None and stored.value.applied_revision >= revision

            await eventually(applied, 20)
            assert (await eventually(lambda: api.get("/readyz"), 10))["status"] == "ready"
            answer = await asyncio.to_thread(_fetch, nginx_box.http_port)
            assert json.loads(answer)["backend"] == "one"
            for client in (api, stranger):
                refused = await _refusal(client, "/api/v1/routes/")
                assert refused in ("denied", "unauthenticated"), "a certificate alone reads nothing of people's apps"
    finally:
        watcher.send_signal(signal.SIGTERM)
        assert watcher.wait(timeout=15) == 0, log.read_text()[-3000:]
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["event"], last["service"]) == ("daemon_stopped", "watcher")


def test_a_bad_setting_ends_the_start_in_one_line_that_names_it() -> None:
    environ = {**os.environ, "LAIN_WATCHER_ROUTER": "r1", "LAIN_WATCHER_ETCD": "x:1", "LAIN_WATCHER_PORT": "many"}
    ended = subprocess.run([sys.executable, "-c", MAIN], env=environ, capture_output=True, check=False, timeout=30)
    assert ended.returncode == 1
    (line,) = ended.stdout.splitlines()
    assert "LAIN_WATCHER_PORT='many'" in json.loads(line)["error"]
    environ["LAIN_WATCHER_PORT"] = "0"
    open_api = subprocess.run([sys.executable, "-c", MAIN], env=environ, capture_output=True, check=False, timeout=30)
    assert "LAIN_WATCHER_TLS_DIR" in json.loads(open_api.stdout.splitlines()[0])["error"]


def _start(environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, "-c", MAIN], env=environ, stdout=output, stderr=output)


def _fetch(port: int) -> str:
    return subprocess.run(
        ["curl", "-s", "-H", "Host: hello.example", f"http://127.0.0.1:{port}/"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


async def _refusal(client: HttpClient, path: str) -> str:
    try:
        await client.get(path)
    except LainError as error:
        return error.error_code
    return ""
