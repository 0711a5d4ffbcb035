"""Certificates out of the table: who gets a handshake, with which certificate, and when plain HTTP is sent to TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.fixtures.certificates import Authority
from tests.fixtures.routing import Front, certificate, proc


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def common_name(handshake: dict[str, Any]) -> str:
    leaf = x509.load_der_x509_certificate(handshake["der"])
    return leaf.subject.rfc4514_string().removeprefix("CN=")


async def test_a_certificate_is_chosen_exact_first_then_by_wildcard(
    front: Front, backends: Callable[..., Any], authority: Authority
) -> None:
    (web,) = await backends("web")
    hosts = ("a.shop.example", "b.shop.example", "shop.example", "x.y.shop.example", "hello.example")
    procs = [proc(f"app{number}", web, host=host) for number, host in enumerate(hosts)]
    wild = certificate("*.shop.example", authority.issue("wild"))
    await front.put(*procs, certificates=(wild, certificate("a.shop.example", authority.issue("exact"))))
    assert common_name(await front.handshake("a.shop.example")) == "exact"
    assert common_name(await front.handshake("b.shop.example")) == "wild"
    assert common_name(await front.handshake("B.Shop.Example")) == "wild"
    for name in ("shop.example", "x.y.shop.example", "hello.example", "c.shop.example", "nobody.example"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await front.handshake(name)


async def test_tls_is_modern_and_speaks_http2(front: Front, backends: Callable[..., Any], authority: Authority) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web), certificates=(certificate("hello.example", authority.issue("hello")),))
    negotiated = await front.handshake("hello.example")
    assert (negotiated["version"], negotiated["protocol"]) == ("TLSv1.3", "h2")
    curl = [
        "curl",
        "-sk",
        "--http2",
        "--connect-to",
        f"::127.0.0.1:{front.box.https_port}",
        "-w",
        "%{http_version} %{http_code}",
    ]
    process = await asyncio.create_subprocess_exec(
        *curl, "-d", "body", "https://hello.example/x?y", stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode()
    assert said.endswith("}2 200"), said
    assert '"x-forwarded-proto": "https"' in said
    assert '"body": "body"' in said


async def test_https_only_redirects_where_a_certificate_serves(
    make_front: Callable[..., Any], backends: Callable[..., Any], authority: Authority
) -> None:
    (web,) = await backends("web")
    front: Front = await make_front(trusted="127.0.0.1/32", hsts_seconds="600")
    held = (certificate("hello.example", authority.issue("hello")),)
    await front.put(
        proc("hello", web, https_only=True), proc("bare", web, host="bare.example", https_only=True), certificates=held
    )
    answer = await front.get("/a?b=c")
    assert (answer.status, answer.headers["Location"]) == (301, "https://hello.example/a?b=c")
    assert (await front.request("POST", "/a", data=b"x")).status == 308
    behind = await front.get("/", headers={"X-Forwarded-Proto": "https"})
    assert behind.status == 200
    assert behind.headers["Strict-Transport-Security"] == "max-age=600"
    assert (await front.get("/", "bare.example")).status == 200, "no certificate, no redirect"
    await front.put(proc("hello", web, https_only=True), certificates=held, https_port=8443)
    assert (await front.get("/", "hello.example:8080")).headers["Location"] == "https://hello.example:8443/"


async def test_certificates_come_and_go_without_touching_what_stands(
    front: Front, backends: Callable[..., Any], authority: Authority
) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web), certificates=(certificate("hello.example", authority.issue("first")),))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", front.box.https_port, ssl=context, server_hostname="hello.example"
    )

    async def ask() -> bytes:
        writer.write(b"GET /status/204 HTTP/1.1\r\nHost: hello.example\r\n\r\n")
        return (await reader.readuntil(b"\r\n\r\n")).splitlines()[0]

    assert await ask() == b"HTTP/1.1 204 No Content"
    await front.put(proc("hello", web), certificates=(certificate("hello.example", authority.issue("second")),))
    assert common_name(await front.handshake("hello.example")) == "second"
    assert await ask() == b"HTTP/1.1 204 No Content"
    await front.put(proc("hello", web))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await front.handshake("hello.example")
    assert await ask() == b"HTTP/1.1 204 No Content"
    assert (await front.get("/")).status == 200
    writer.close()
