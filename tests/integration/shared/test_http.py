"""The HTTP kit over real sockets and real TLS: who passes, what a refusal looks like, what the client makes of it."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from marshmallow import Schema, fields
from yarl import URL

from lain_shared.daemon import Daemon, Health, PartEnded, run_daemon
from lain_shared.errors import Conflict, Denied, Invalid, LainError, NotFound, Unauthenticated, Unavailable
from lain_shared.http_client import HttpClient, Unreachable
from lain_shared.http_server import Api, Probes, parse, principal, query, reply, sse
from lain_shared.loop import Loop
from lain_shared.model.config import Jwks, Role, Token
from lain_shared.testing import eventually
from lain_shared.tls import client_context, server_context
from lain_shared.tokens import Access, Signer, Verifier

DAY = datetime.timedelta(days=1)


class Authority:
    """A little CA, for tests."""

    def __init__(self, directory: Path, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key, ca=True)
        self.directory = directory

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        loopback = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = x509.CertificateBuilder(
            self.name, subject, key.public_key(), x509.random_serial_number(), now - DAY, now + DAY
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True).add_extension(
            loopback, critical=False
        )
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, common_name: str) -> Path:
        """A folder with ca.pem, cert.pem and key.pem of a new certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        pem = serialization.Encoding.PEM
        folder = self.directory / common_name
        folder.mkdir(parents=True)
        (folder / "ca.pem").write_bytes(self.certificate.public_bytes(pem))
        (folder / "cert.pem").write_bytes(self._sign(subject, key, ca=False).public_bytes(pem))
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "key.pem").write_bytes(private)
        return folder


class ThingSchema(Schema):
    name = fields.Str(required=True)
    count = fields.Int(load_default=1)


class PageSchema(Schema):
    page = fields.Int(load_default=1)


@dataclass(frozen=True)
class Thing:
    name: str
    count: int


@dataclass
class Served:
    url: str
    signer: Signer
    trusted: Path
    foreign: Path
    tokens: dict[str, Token]

    def token(self, role: Role, *apps: str) -> str:
        token = Token(f"{role}-{'-'.join(apps)}", "ann", role, apps, time.time(), "root", time.time() + 3600)
        self.tokens[token.id] = token
        return self.signer.sign(token)

    def client(self, token: str | None = None, certificate: Path | None = None) -> HttpClient:
        return HttpClient(self.url, token=token, tls=client_context(certificate, ca=self.trusted / "ca.pem"))


def example_api() -> Api:
    api = Api("example", "1.0", "An example")

    @api.put("/apps/{app}/", access=Access.DEPLOY, summary="Change", request=ThingSchema, response=Thing, status=202)
    async def change(request: web.Request) -> web.Response:
        wanted = await parse(request, ThingSchema)
        return reply(Thing(wanted["name"], wanted["count"]), status=202)

    @api.get("/apps/{app}/", access=Access.READ, summary="Read", query=PageSchema)
    async def read(request: web.Request) -> web.Response:
        return reply({"page": query(request, PageSchema)["page"], "who": principal(request).name})

    @api.get("/daemons/", access=Access.DAEMON, summary="For daemons")
    async def daemons(request: web.Request) -> web.Response:
        return reply({"who": principal(request).name})

    @api.get("/one-daemon/", access=Access.DAEMON, daemons=("watcher",), summary="For one daemon")
    async def one_daemon(request: web.Request) -> web.Response:
        return reply({"who": principal(request).name})

    @api.get("/fails/{kind}/", access=Access.AUTHENTICATED, summary="Fail")
    async def fail(request: web.Request) -> web.Response:
        kinds: dict[str, Exception] = {
            "conflict": Conflict("busy", why="because", next="wait", evidence={"who": "bob"}, retry_seconds=2),
            "missing": NotFound("no such thing"),
            "crash": RuntimeError("a secret inside"),
        }
        raise kinds[request.match_info["kind"]]

    @api.get("/events/", access=Access.AUTHENTICATED, summary="Events")
    async def events(request: web.Request) -> web.StreamResponse:
        async with sse(request, heartbeat_seconds=0.01) as stream:
            for number in range(3):
                await stream.send("step", {"number": number})
                await asyncio.sleep(0.03)
        return stream.response

    return api


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    ours, theirs = Authority(tmp_path / "ours", "ours"), Authority(tmp_path / "theirs", "theirs")
    console, foreign = ours.issue("console"), theirs.issue("console")
    signer = Signer(console / "key.pem", "iss", "aud")
    jwks = Jwks((signer.public,), "iss", "aud")
    tokens: dict[str, Token] = {}
    verifier = Verifier(lambda: jwks, lambda: tokens)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    daemon = Daemon(
        "example", (), example_api().build(verifier=verifier, probes=Probes(ready=lambda: {"etcd": "away"})),
        ssl_context=server_context(console), on_listening=port.set_result, grace_seconds=1,
    )  # fmt: skip
    running = asyncio.create_task(run_daemon(daemon, stop=stop))
    yield Served(f"https://localhost:{await port}", signer, console, foreign, tokens)
    stop.set()
    await running


async def test_who_passes(served: Served) -> None:
    read = "/apps/hello/"
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        anonymous = await enter(served.client())
        viewer = await enter(served.client(served.token(Role.VIEWER, "hello")))
        stranger = await enter(served.client(served.token(Role.MAINTAINER, "other")))
        daemon = await enter(served.client(certificate=served.trusted))
        with pytest.raises(Unauthenticated):
            await anonymous.get(read)
        assert (await viewer.get(read, params={"page": 2})) == {"page": 2, "who": "ann"}
        for client in (viewer, stranger):
            with pytest.raises(Denied):
                await client.put(read, json={"name": "x"})
        assert await daemon.get("/daemons/") == {"who": "console"}
        for client, path in ((daemon, read), (viewer, "/daemons/"), (daemon, "/one-daemon/"), (viewer, "/one-daemon/")):
            with pytest.raises(Denied):
                await client.get(path)
        with pytest.raises(Unauthenticated):
            await anonymous.get("/no/such/route/")
        with pytest.raises(NotFound):
            await viewer.get("/no/such/route/")


async def test_a_foreign_certificate_gets_no_connection(served: Served) -> None:
    context = ssl.create_default_context(cafile=str(served.trusted / "ca.pem"))
    context.load_cert_chain(served.foreign / "cert.pem", served.foreign / "key.pem")
    async with HttpClient(served.url, tls=context) as client:
        with pytest.raises(Unreachable):
            await client.get("/daemons/")


def test_with_an_authority_of_our_own_no_other_is_trusted(tmp_path: Path) -> None:
    folder = Authority(tmp_path, "ours").issue("console")
    for context in (client_context(folder), client_context(ca=folder / "ca.pem"), server_context(folder)):
        assert len(context.get_ca_certs()) == 1
    assert client_context().verify_mode is ssl.CERT_REQUIRED


async def test_a_server_of_another_authority_is_not_believed(served: Served) -> None:
    async with HttpClient(served.url, tls=client_context(ca=served.foreign / "ca.pem")) as client:
        with pytest.raises(Unreachable, match="cannot be reached"):
            await client.get("/version")


async def test_all_faults_of_a_body_at_once(served: Served) -> None:
    async with served.client(served.token(Role.OPERATOR)) as client:
        with pytest.raises(Invalid) as caught:
            await client.put("/apps/hello/", json={"count": "many", "nmae": "x"})
        assert {fault["path"] for fault in caught.value.evidence["faults"]} == {"name", "count", "nmae"}
        with pytest.raises(Invalid):
            await client.put("/apps/hello/", json=[1])
        assert await client.put("/apps/hello/", json={"name": "x"}, kind=Thing) == Thing("x", 1)


async def test_an_error_crosses_the_wire_whole_and_a_crash_says_nothing(served: Served) -> None:
    async with served.client(served.token(Role.AUDITOR)) as client:
        with pytest.raises(Conflict) as caught:
            await client.get("/fails/conflict/")
        error = caught.value
        assert (error.message, error.why, error.next, error.evidence, error.retry_seconds) == (
            "busy", "because", "wait", {"who": "bob"}, 2,
        )  # fmt: skip
        with pytest.raises(NotFound, match="no such thing"):
            await client.get("/fails/missing/")
        with pytest.raises(LainError) as crash:
            await client.get("/fails/crash/")
        assert crash.value.error_code == "internal"
        assert "secret" not in str(crash.value.to_document())


async def test_events_arrive_and_end(served: Served) -> None:
    async with served.client(served.token(Role.AUDITOR)) as client:
        events = [event async for event in client.events("/events/")]
    assert [(event.event, event.data["number"]) for event in events] == [("step", 0), ("step", 1), ("step", 2)]


async def test_what_every_daemon_serves(served: Served) -> None:
    async with served.client() as client:
        assert await client.get("/version") == {"service": "example", "version": "1.0"}
        assert await client.get("/healthz") == {"status": "alive", "reasons": {}}
        with pytest.raises(Unavailable):
            await client.get("/readyz")
        document = await client.get("/openapi.json")
    assert document["openapi"] == "3.1.0"
    change = document["paths"]["/apps/{app}/"]["put"]
    assert change["x-lain-access"] == "deploy"
    assert set(change["responses"]) == {"202", "400", "401", "403", "404", "409", "413", "422", "500", "503"}
    connector = aiohttp.TCPConnector(ssl=client_context(ca=served.trusted / "ca.pem"))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(f"{served.url}/metrics") as answer:
            assert 'lain_http_requests_total{method="GET",route="/version",status="200"} 1.0' in await answer.text()
            assert (
                answer.content_type == "text/plain"
            )  # what promtool and curl expect; Prometheus asks for the other one
        wanted = {"Accept": "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.3"}
        async with session.get(f"{served.url}/metrics", headers=wanted) as answer:
            assert answer.content_type == "application/openmetrics-text"
            assert (await answer.text()).endswith("# EOF\n")
        async with session.get(f"{served.url}/docs", headers={"X-Request-Id": "ab\tc"}) as answer:
            assert "/apps/{app}/" in await answer.text()
            assert answer.headers["X-Request-Id"] != "ab\tc"


async def test_what_is_no_http_is_refused_in_our_own_form(served: Served) -> None:
    address = URL(served.url)
    tls = client_context(ca=served.trusted / "ca.pem")
    for sent in (b"\x16\x03\x01 hello\r\n\r\n", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=tls)
        writer.write(sent)
        answer = await reader.read(4096)
        writer.transport.abort()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 400") or head.startswith(b"HTTP/1.1 400")
        assert b"application/json" in head
        assert msgspec.json.decode(body)["error"]["code"] == "bad_http"


async def test_nobody_there_is_unavailable_and_names_the_address() -> None:
    async with HttpClient("http://127.0.0.1:9") as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
            await client.put("/x", json={})


@pytest.mark.parametrize("how", ["returns", "was cancelled"])
async def test_a_part_that_ends_unasked_takes_the_process_down(how: str) -> None:
    class Ends:
        name, ready = "ends", True

        async def run(self) -> None:
            if how == "was cancelled":
                raise asyncio.CancelledError

        def stop(self) -> None: ...

    with pytest.raises(PartEnded, match="ends"):
        await run_daemon(Daemon("x", (Ends(),)), stop=asyncio.Event())


async def test_stopping_ends_the_pass_in_hand_and_begins_no_other() -> None:
    stop, began, ended = asyncio.Event(), asyncio.Event(), []

    async def one_pass() -> None:
        began.set()
        await asyncio.sleep(0.05)
        ended.append("pass")

    loop = Loop("l", one_pass, resync_seconds=0)
    health = Health([loop])
    assert "l" in health.not_ready()
    running = asyncio.create_task(run_daemon(Daemon("x", (loop,)), health=health, stop=stop))
    await began.wait()
    stop.set()
    await running
    assert ended == ["pass"]
    assert health.not_ready() == {"daemon": "stopping"}


async def test_a_failing_loop_backs_off_is_not_ready_and_recovers() -> None:
    passes = 0

    async def one_pass() -> None:
        nonlocal passes
        passes += 1
        if passes <= 3:
            raise Unavailable("etcd is away")

    loop = Loop("l", one_pass, resync_seconds=30, max_backoff_seconds=0.01)
    running = asyncio.create_task(loop.run())
    await eventually(lambda: loop.ready, timeout_seconds=5)
    loop.stop()
    await running
    assert passes == 4


async def test_lasting_parts_stop_last_and_open_streams_do_not_hold_them_up() -> None:
    stop, order = asyncio.Event(), []

    class Waits:
        ready = True

        def __init__(self, name: str) -> None:
            self.name = name
            self.stopped = asyncio.Event()

        async def run(self) -> None:
            await self.stopped.wait()
            order.append(self.name)

        def stop(self) -> None:
            self.stopped.set()

    api = Api("x", "1")

    @api.get("/forever", access=Access.PUBLIC, summary="A stream that never ends")
    async def forever(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"open")
        try:
            await asyncio.Event().wait()
        finally:
            order.append("stream")
        return response

    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    verifier = Verifier(lambda: None, lambda: None)
    daemon = Daemon(
        "x", (Waits("part"),), lasting=(Waits("presence"),), app=api.build(verifier=verifier), http_grace_seconds=0.4,
        on_listening=port.set_result,
    )  # fmt: skip
    running = asyncio.create_task(run_daemon(daemon, stop=stop))
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{await port}/forever") as answer:
        assert await answer.content.readany() == b"open"
        stop.set()
        async with asyncio.timeout(2):
            await running
    assert order == ["part", "stream", "presence"]
