"""Whatever is sent to whichever route, the answer is JSON in the one shape, and never a crash."""

from __future__ import annotations

import itertools
import re

import aiohttp
import pytest
from yarl import URL

from lain_console.api import build_api
from lain_sdk.client import Console
from tests.fixtures.console import ClusterForConsole

BODIES = (
    b"", b"[]", b"null", b"7", b'"x"', b"{", b"\xff\xfe", b"{}" * 2, b'{"a":1}', b'{"name":5,"giturl":[]}', b'{"name":{}}',
    b'{"name":"\xc3\xa9\\u0000"}', b'{"set":{"A":1},"unset":"A"}', b'{"set":[],"unset":{}}', b'{"operation":7,"instance":"x"}',
    b'{"operation":"stop","instance":99999999999999999999}', b'{"instances":1e400}', b'{"memory":true}', b'{"release":-1}',
    b'{"meta_version":"../../x","proc":"\\n"}', b'{"meta_version":["x"],"replace":"maybe"}', b'{"value":7}',
    b'{"value":{"v":1},"revision":"x"}', b'{"name":"x","role":"king"}', b'{"name":"x","role":"viewer","apps":[7]}',
    b'{"name":"x","role":"viewer","expires_in_seconds":"NaN"}', b'{"guests":["' + b"x" * 5000 + b'"]}',
    b"[" * 3000, b'{"name":"' + b"x" * 100_000 + b'"}',
)  # fmt: skip
NAMES = (
    "hello",
    "nobody",
    "%00",
    "..%2f..%2fetc",
    "a%2Fb",
    "x" * 300,
    "%C3%A9%F0%9F%98%80",
    "%ff",
    "-1",
    "0",
    "1e9",
    "'%20or%201=1",
)
QUERIES = ("", "?follow=perhaps", "?since=NaN&tail=-1", "?operation=%00", "?cmd=", "?force=x", "?tail=1e9&since=inf")


def urls(path: str) -> list[str]:
    holes = len(re.findall(r"{\w+}", path))
    fillings = (
        itertools.product(NAMES, repeat=holes) if holes < 2 else (("hello", *[name] * (holes - 1)) for name in NAMES)
    )
    found = []
    for filling in fillings:
        url = path
        for name in filling:
            url = re.sub(r"{\w+}", lambda _: name, url, count=1)  # noqa: B023
        found.append(url)
    return found


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_no_input_crashes_a_route(cluster: ClusterForConsole, lain: Console, method: str) -> None:
    await lain.register("hello")
    await cluster.release("1-aaa")
    headers = {"Authorization": f"Bearer {await cluster.token()}"}
    endpoints = [endpoint for endpoint in build_api().endpoints if endpoint.method == method]
    assert endpoints
    async with aiohttp.ClientSession(lain.url, headers=headers) as session:
        for endpoint in endpoints:
            tries = [(url, b"") for url in urls(endpoint.path)]
            tries += [(urls(endpoint.path)[0] + query, b"") for query in QUERIES]
            if method in ("POST", "PUT", "PATCH"):
                tries += [(urls(endpoint.path)[0], body) for body in BODIES]
            for url, body in tries:
                async with session.request(method, URL(lain.url + url, encoded=True), data=body) as answer:
                    seen = await answer.read() if "events" not in url and "logs" not in url else b"{}"
                    assert answer.status < 500 or answer.status == 503, (
                        method,
                        url,
                        body[:80],
                        answer.status,
                        seen[:500],
                    )
                    if answer.status >= 400:
                        assert answer.content_type == "application/json", (method, url, answer.content_type)
