"""How soon the router does what the store says: an endpoint's change, a new host, another certificate; and nothing is reloaded.

A real etcd with 1,000 apps, the watcher as a process, nginx under its supervisor, all on loopback. Each sample begins when the record is
put, or the files are replaced, and ends with the first answer, or handshake, that shows it. Needs ``etcd`` and ``nginx``.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import Case, Proof, quantile
from lain_shared import keys
from lain_shared.etcd import EtcdStore
from lain_shared.model.route import Endpoint, Endpoints, Route, RouterState
from lain_shared.records import Records
from lain_shared.testing import eventually
from tests.fixtures.certificates import Authority
from tests.fixtures.etcd import free_ports
from tests.fixtures.nginx import NginxBox

if TYPE_CHECKING:
    from bench.__main__ import Options

DESCRIPTION = "endpoint change, new host and new certificate to served, with 1,000 apps"
APPS, QUICK_APPS = 1000, 100
CHANGES, HOSTS, SWAPS = 200, 50, 30
QUICK_CHANGES, QUICK_HOSTS, QUICK_SWAPS = 10, 5, 4
BACKENDS = ("127.0.0.1", "127.0.0.2")
WATCHER = "from lain_watcher.main import main; main()"
SECURE = "secure.example"
PAUSE_SECONDS = 0.002
TORN_SECONDS = 0.05
GIVE_UP_SECONDS = 10.0


@dataclass
class Rig:
    """Store, router and backends of one run."""

    box: NginxBox
    endpoints: Records[Endpoints]
    states: Records[RouterState]
    backend_port: int
    certificates: Path
    authority: Authority
    handshakes: int = 0
    lost: list[str] = field(default_factory=list)

    async def put(self, app: str, backend: str) -> int:
        record = Endpoints(app, "web", self.backend_port, (Route(f"{app}.example"),), ready=(Endpoint(1, 1, backend),))
        return await self.endpoints.put(record, app, "web")

    async def applied(self, revision: int) -> bool:
        stored = await self.states.get("r1")
        return stored is not None and stored.value.applied_revision >= revision

    async def ask(self, host: str) -> bytes:
        """Status line and body of one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.box.http_port)
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return await reader.read()
        finally:
            writer.close()

    async def certificate(self) -> bytes:
        """The certificate that a handshake is given; raises what the handshake does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _, writer = await asyncio.open_connection("127.0.0.1", self.box.https_port, ssl=context, server_hostname=SECURE)
        try:
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            assert isinstance(found, bytes)
            return found
        finally:
            writer.close()

    async def install(self, number: int) -> None:
        """Another pair for ``SECURE``, chain and key each by rename: between the two they do not fit for a moment."""
        pair = self.authority.issue(f"{SECURE}-{number}")
        for source, target in (("cert.pem", f"{SECURE}.crt"), ("key.pem", f"{SECURE}.key")):
            new = self.certificates / f".{target}.new"
            shutil.copy(pair / source, new)
            new.rename(self.certificates / target)
            await asyncio.sleep(TORN_SECONDS)


async def run(proof: Proof, options: Options) -> None:
    chance = random.Random(options.seed)
    apps = QUICK_APPS if options.quick else APPS
    changes, hosts, swaps = (QUICK_CHANGES, QUICK_HOSTS, QUICK_SWAPS) if options.quick else (CHANGES, HOSTS, SWAPS)
    proof.facts.update(apps=apps, seed=options.seed)
    async with rig() as on:
        revision = 0
        for number in range(apps):
            revision = await on.put(f"app-{number}", BACKENDS[0])
        revision = max(revision, await on.put("secure", BACKENDS[0]))
        await on.install(0)
        await eventually(lambda: on.applied(revision), 60, "all apps routed")
        await eventually(lambda: _handshakes(on), 20, "TLS")
        before = on.box.workers
        shaking = [asyncio.create_task(_shake(on)) for _ in range(2)]
        try:
            await _endpoint_changes(proof, on, chance, apps, changes)
            await _new_hosts(proof, on, hosts)
            await _swaps(proof, on, swaps)
        finally:
            for task in shaking:
                task.cancel()
            await asyncio.gather(*shaking, return_exceptions=True)
        quiet = proof.case("what it cost the others")
        quiet.target("nginx workers replaced", len(set(before) ^ set(on.box.workers)), at_most=0)
        quiet.target("handshakes lost", len(on.lost), at_most=0)
        quiet.target("handshakes tried", on.handshakes, at_least=10 * swaps)
        for text in on.lost[:10]:
            quiet.note(text)


async def _endpoint_changes(proof: Proof, on: Rig, chance: random.Random, apps: int, changes: int) -> None:
    case = proof.case("endpoint change to served", "s")
    now: dict[str, int] = {}
    for _ in range(changes):
        app = f"app-{chance.randrange(apps)}"
        now[app] = 1 - now.get(app, 0)
        address = BACKENDS[now[app]]

        async def change(app: str = app, address: str = address) -> None:
            await on.put(app, address)

        async def served(app: str = app, address: str = address) -> bool:
            return (await on.ask(f"{app}.example")).endswith(address.encode())

        case.add("lain", await _timed(change, served))
    case.target("p99", quantile(case.samples["lain"], 0.99), at_most=0.3)
    _say(proof, case)


async def _new_hosts(proof: Proof, on: Rig, hosts: int) -> None:
    case = proof.case("new host to served", "s")
    for number in range(hosts):

        async def change(number: int = number) -> None:
            await on.put(f"new-{number}", BACKENDS[0])

        async def served(number: int = number) -> bool:
            return (await on.ask(f"new-{number}.example")).startswith(b"HTTP/1.1 200")

        case.add("lain", await _timed(change, served))
    case.target("worst", case.worst(), at_most=1.0)
    _say(proof, case)


async def _swaps(proof: Proof, on: Rig, swaps: int) -> None:
    case = proof.case("certificate replaced to presented", "s")
    for number in range(1, swaps + 1):
        old = await on.certificate()

        async def change(number: int = number) -> None:
            await on.install(number)

        async def served(old: bytes = old) -> bool:
            return await on.certificate() != old

        case.add("lain", await _timed(change, served))
    case.target("worst", case.worst(), at_most=1.0)
    _say(proof, case)


def _say(proof: Proof, case: Case) -> None:
    proof.say(f"{case.name}: median {case.median():.3f} s, worst {case.worst():.3f} s")


async def _timed(change: Callable[[], Awaitable[None]], served: Callable[[], Awaitable[bool]]) -> float:
    """Seconds from before ``change`` until ``served`` says so first."""
    began = time.monotonic()
    await change()
    while not await served():
        if time.monotonic() - began > GIVE_UP_SECONDS:
            raise TimeoutError(f"not served within {GIVE_UP_SECONDS:g} s")
        await asyncio.sleep(PAUSE_SECONDS)
    return time.monotonic() - began


async def _handshakes(on: Rig) -> bool:
    try:
        return bool(await on.certificate())
    except OSError:  # ssl.SSLError is one
        return False


async def _shake(on: Rig) -> None:
    """One handshake after the other, all the while."""
    while True:
        on.handshakes += 1
        try:
            await on.certificate()
        except OSError as error:
            on.lost.append(f"{type(error).__name__}: {error}")
        await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    """etcd, two backends that answer with their address, nginx and a watcher; all gone afterwards."""
    async with AsyncExitStack() as stack:
        root = _folder()
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        client, peer, http, https, external, api = free_ports(6)
        etcd = [
            "etcd", "--data-dir", str(root / "etcd"), "--log-level", "error",
            "--listen-client-urls", f"http://127.0.0.1:{client}", "--advertise-client-urls", f"http://127.0.0.1:{client}",
            "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
            "--initial-cluster", f"default=http://127.0.0.1:{peer}",
        ]  # fmt: skip
        _start(stack, etcd, {}, root / "etcd.log")
        store = await stack.enter_async_context(EtcdStore.connect((f"127.0.0.1:{client}",)))
        port = 0
        for address in BACKENDS:
            server = await asyncio.start_server(_backend(address), address, port)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
        box = NginxBox(root, http, https, external, {"LAIN_NGINX_WAIT_SECONDS": "30"})
        watcher = {
            "LAIN_WATCHER_ROUTER": "r1",
            "LAIN_WATCHER_ETCD": f"127.0.0.1:{client}",
            "LAIN_WATCHER_STATE_DIR": str(box.shared),
            "LAIN_WATCHER_CERTIFICATES": str(root / "certificates"),
            "LAIN_WATCHER_LISTEN": "127.0.0.1",
            "LAIN_WATCHER_PORT": str(api),
        }
        _start(stack, [sys.executable, "-c", WATCHER], watcher, root / "watcher.log")
        stack.callback(lambda: box.process is not None and box.stop())
        await asyncio.to_thread(box.start)
        yield Rig(
            box,
            Records(store, keys.ENDPOINTS, Endpoints),
            Records(store, keys.ROUTERS, RouterState),
            port,
            root / "certificates",
            Authority(root / "ca"),
        )


def _folder() -> Path:
    root = Path(tempfile.mkdtemp(prefix="lain-bench-"))
    root.chmod(0o711)  # nginx's workers are nobody
    (root / "shared").mkdir(mode=0o700)
    (root / "certificates").mkdir()
    return root


def _backend(address: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(address)}\r\n\r\n{address}".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writer.close()

    return serve


def _start(stack: AsyncExitStack, argv: list[str], more: dict[str, str], log: Path) -> None:
    with log.open("wb") as output:
        running = subprocess.Popen(argv, env={**os.environ, **more}, stdout=output, stderr=output)

    def end() -> None:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(timeout=15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()

    stack.callback(end)
