"""nginx by itself, given a table: who gets which request, and what the app sees of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from lain_shared.model.route import Route
from lain_shared.testing import eventually
from lain_watcher.adapters.nginx import TableRefused
from lain_watcher.table import ProcEntry
from tests.fixtures.routing import Backend, Front, fresh_address, proc


async def test_requests_go_round_over_all_ready_backends(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    seen = Counter([(await front.get("/")).json["backend"] for _ in range(40)])
    assert set(seen) == {"one", "two"}
    assert abs(seen["one"] - seen["two"]) <= 2


async def test_a_prefix_is_stripped_on_whole_segments_only(front: Front, backends: Callable[..., Any]) -> None:
    (api,) = await backends("api")
    await front.put(proc("shop", api, host="shop.example", path="/api"))
    answer = (await front.get("/api/v1?x=1", "shop.example")).json
    assert answer["uri"] == "/v1?x=1"
    assert answer["headers"]["x-original-uri"] == "/api/v1?x=1"
    assert answer["headers"]["request_uri"] == "/api/v1?x=1"
    bare = await front.get("/api?a=b&c", "shop.example")
    assert (bare.status, bare.headers["Location"]) == (301, "/api/?a=b&c")
    assert (await front.request("POST", "/api", "shop.example")).status == 308
    assert (await front.get("/apix", "shop.example")).status == 404


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/api/", "/"),
        ("/api/a%2Fb%20c", "/a%2Fb%20c"),
        ("/api/%D1%8F?q=%D1%8F", "/%D1%8F?q=%D1%8F"),
        ("/api//x", "/x"),
        ("/api/./x/../y?z", "/y?z"),
        ("/%61pi/x", "/x"),
        ("/api/%2e%2e/api/x", "/x"),
    ],
)
async def test_what_remains_of_a_stripped_uri_is_what_the_client_wrote(
    front: Front, backends: Callable[..., Any], asked: str, seen: str
) -> None:
    (api,) = await backends("api")
    await front.put(proc("shop", api, path="/api"))
    assert (await front.get(asked)).json["uri"] == seen


async def test_a_route_without_prefix_leaves_the_uri_alone(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    for uri in ("/", "/a%2Fb//c?x=%20&y", "/a/../b", "/%E2%82%AC"):
        assert (await front.get(uri)).json["uri"] == uri


async def test_the_longest_prefix_wins_and_apps_share_a_host(front: Front, backends: Callable[..., Any]) -> None:
    root, x, xy = await backends("root", "x", "xy")
    await front.put(proc("r", root), proc("a", x, path="/x"), proc("b", xy, path="/x/y"))
    for path, name in {
        "/": "root",
        "/xy": "root",
        "/x/": "x",
        "/x/z": "x",
        "/x/yz/q": "x",
        "/x/y/": "xy",
        "/x/y/z/w": "xy",
    }.items():
        assert (await front.get(path)).json["backend"] == name, path


async def test_a_wildcard_host_covers_one_label_and_only_if_declared(
    front: Front, backends: Callable[..., Any]
) -> None:
    exact, wild = await backends("exact", "wild")
    await front.put(proc("e", exact, host="a.shop.example"), proc("w", wild, host="*.shop.example"))
    assert (await front.get("/", "a.shop.example")).json["backend"] == "exact"
    assert (await front.get("/", "b.shop.example")).json["backend"] == "wild"
    assert (await front.get("/", "B.Shop.Example.:8080")).json["backend"] == "wild"
    for host in ("shop.example", "x.b.shop.example", "x.hello.example", "", "[::1]:80", "*.shop.example.evil"):
        assert (await front.get("/", host)).status in (400, 404), host


async def test_the_app_sees_who_asked_and_how(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    forged = {
        "X-Forwarded-For": "9.9.9.9",
        "X-Forwarded-Proto": "https",
        "X-Real-IP": "9.9.9.9",
        "X-Request-Id": "mine-1",
    }
    answer = await front.get("/", "hello.example:8080", headers=forged)
    seen = answer.json["headers"]
    assert seen["host"] == "hello.example:8080"
    assert seen["x-real-ip"] == "127.0.0.1"
    assert seen["x-forwarded-for"] == "9.9.9.9, 127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-request-id"] == "mine-1"
    assert answer.headers["X-Request-Id"] == "mine-1"
    fresh = await front.get("/", headers={"X-Request-Id": 'x" evil'})
    assert fresh.json["headers"]["x-request-id"] == fresh.headers["X-Request-Id"] != 'x" evil'
    assert len(fresh.headers["X-Request-Id"]) == 32


async def test_nobody_speaks_past_the_router_by_an_upgrade_to_http2(front: Front, backends: Callable[..., Any]) -> None:
    (web,) = await backends("web")
    await front.put(proc("hello", web))
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    seen = (await front.get("/", headers=headers)).json["headers"]
    assert "upgrade" not in seen
    assert "upgrade" not in seen.get("connection", "")


async def test_a_target_that_names_another_host_than_the_header_is_refused(
    front: Front, backends: Callable[..., Any]
) -> None:
    hello, other = await backends("hello", "other")
    await front.put(proc("hello", hello), proc("other", other, host="other.example", path="/x", created=2))

    async def ask(target: str, host: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n")[0]

    assert await ask("http://hello.example/", "hello.example") == b"HTTP/1.1 200 OK"
    assert await ask("http://HELLO.example:80/", "hello.example.:8080") == b"HTTP/1.1 200 OK"
    assert await ask("http://other.example/x/y", "other.example") == b"HTTP/1.1 200 OK"
    seen = hello.requests, other.requests
    for target, host in (
        ("http://other.example/x/y", "hello.example"),
        ("http://hello.example/", "other.example"),
        ("http://nobody.example/", "hello.example"),
    ):
        assert await ask(target, host) == b"HTTP/1.1 400 Bad Request"
    assert (hello.requests, other.requests) == seen


async def test_an_outer_proxy_is_believed_only_where_it_is_trusted(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    (web,) = await backends("web")
    front: Front = await make_front(trusted="127.0.0.1/32,10.0.0.0/8")
    await front.put(proc("hello", web))
    headers = {"X-Forwarded-For": "9.9.9.9, 10.1.1.1", "X-Forwarded-Proto": "https"}
    seen = (await front.get("/", headers=headers)).json["headers"]
    assert seen["x-real-ip"] == "9.9.9.9"
    assert seen["x-forwarded-for"] == "9.9.9.9, 10.1.1.1, 127.0.0.1"
    assert seen["x-forwarded-proto"] == "https"
    odd = (await front.get("/", headers={"X-Forwarded-Proto": "javascript"})).json["headers"]
    assert odd["x-forwarded-proto"] == "http"


async def test_an_unknown_host_gets_a_page_or_json(front: Front) -> None:
    page = await front.get("/<script>", "nobody.example")
    assert (page.status, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert page.headers["X-Request-Id"].encode() in page.body
    document = await front.get("/", "nobody.example", headers={"Accept": "application/json"})
    assert (document.status, document.json["error"]["code"]) == (404, "unknown_host")
    assert document.json["error"]["evidence"]["request_id"] == document.headers["X-Request-Id"]
    assert (await front.request("HEAD", "/", "nobody.example")).status == 404


async def test_an_app_without_instances_is_named(front: Front) -> None:
    await front.put(proc("hello", draining=("127.77.9.9",)))
    page = await front.get("/")
    assert page.status == 503
    assert b"hello" in page.body
    assert page.headers["Retry-After"] == "5"
    document = await front.get("/", headers={"Accept": "application/json"})
    assert document.json["error"]["code"] == "no_instances"
    assert document.json["error"]["evidence"]["app"] == "hello"


async def test_suspects_are_used_only_after_all_others(front: Front, backends: Callable[..., Any]) -> None:
    good, lost = await backends("good", "lost")
    await front.put(proc("hello", good, suspect=(lost.peer,)))
    assert {(await front.get("/")).json["backend"] for _ in range(10)} == {"good"}
    await good.stop()
    assert {(await front.get("/")).json["backend"] for _ in range(10)} == {"lost"}


async def test_a_dead_backend_costs_nobody_a_request_and_leaves_the_rotation(
    front: Front, backends: Callable[..., Any]
) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    await asyncio.gather(*(front.get("/") for _ in range(20)))
    await one.stop()
    answers = await asyncio.gather(*(front.request(method, "/") for _ in range(20) for method in ("GET", "POST")))
    assert {answer.status for answer in answers} == {200}
    assert list((await front.state()).ejected) == [one.peer]
    before = len(front.box.lines(60))
    await asyncio.gather(*(front.get("/") for _ in range(20)))
    assert not [line for line in front.box.lines(before + 20)[before:] if one.peer.encode() in line], (
        "it is out of rotation"
    )


async def test_when_all_look_bad_they_are_tried_all_the_same(front: Front) -> None:
    one = Backend("one", fresh_address(), port=18080)
    await front.put(proc("hello", one))
    failed = await front.get("/", headers={"Accept": "application/json"})
    assert (failed.status, failed.json["error"]["code"]) == (502, "upstream_failed")
    assert failed.json["error"]["evidence"]["app"] == "hello"
    assert list((await front.state()).ejected) == [one.peer]
    await one.start()
    try:
        assert (await front.get("/")).json["backend"] == "one"
    finally:
        await one.stop()


async def test_a_request_that_changes_something_is_never_sent_twice(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    for _ in range(4):
        assert (await front.request("POST", "/drop", data=b"x")).status == 502
    assert one.posts + two.posts == 4
    before = one.requests + two.requests
    assert (await front.get("/drop")).status == 502
    assert one.requests + two.requests - before == 2, "a read is tried once more, and does not visit every backend"
    assert (await front.state()).ejected == {}, "whoever answers badly is not one who refuses connections"


async def test_an_idle_connection_that_the_backend_closed_costs_nothing(
    front: Front, backends: Callable[..., Any]
) -> None:
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    for _ in range(3):
        await asyncio.gather(*(front.get("/") for _ in range(8)))
        port = one.port
        await one.stop()
        one.port = port
        await one.start()
        answers = await asyncio.gather(*(front.get("/") for _ in range(8)))
        assert {answer.status for answer in answers} == {200}


async def test_the_apps_own_errors_pass_untouched(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    for status in (404, 500, 503, 504):
        answer = await front.get(f"/status/{status}")
        assert (answer.status, answer.body in (b"one", b"two")) == (status, True)
    post = await front.request("POST", "/status/502")
    assert (post.status, post.body in (b"one", b"two")) == (502, True)


async def test_read_timeouts_are_the_procs_own(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two, options={"read_timeout_seconds": 1}))
    late = await front.get("/slow", headers={"Accept": "application/json"})
    assert (late.status, late.json["error"]["code"]) == (504, "upstream_timeout")
    assert one.requests + two.requests == 1, "it had the request: nobody else gets it too"


async def test_a_body_limit_is_the_procs_own(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    await front.put(proc("hello", one, options={"max_body_bytes": 10}))
    assert (await front.request("POST", "/", data=b"0123456789")).json["body"] == "0123456789"
    assert (await front.request("POST", "/", data=b"0123456789a")).status == 413

    async def chunks() -> Any:
        yield b"x"

    assert (await front.request("POST", "/", data=chunks())).status == 411
    assert (await front.get("/")).status == 200


async def test_a_sticky_proc_keeps_a_client_on_its_backend(front: Front, backends: Callable[..., Any]) -> None:
    one, two, three = await backends("one", "two", "three")
    await front.put(proc("hello", one, two, three, options={"sticky": True}))
    first = await front.get("/")
    cookie = first.headers["Set-Cookie"].partition(";")[0]
    assert "127." not in first.headers["Set-Cookie"]
    again = [await front.get("/", headers={"Cookie": cookie}) for _ in range(6)]
    assert {answer.json["backend"] for answer in again} == {first.json["backend"]}
    assert all("Set-Cookie" not in answer.headers for answer in again)
    await next(each for each in (one, two, three) if each.name == first.json["backend"]).stop()
    moved = await front.get("/", headers={"Cookie": cookie})
    assert moved.status == 200
    assert "Set-Cookie" in moved.headers


async def test_external_ports_do_not_know_the_clusters_own_hosts(front: Front, backends: Callable[..., Any]) -> None:
    inside, outside = await backends("inside", "outside")
    table = (proc("i", inside, host="i.lain.example"), proc("o", outside, host="shop.example"))
    await front.put(*table, domains=("lain.example",))
    port = front.box.external_port
    assert (await front.get("/", "i.lain.example")).status == 200
    assert (await front.get("/", "i.lain.example", port=port)).status == 404
    assert (await front.get("/", "shop.example", port=port)).json["backend"] == "outside"


async def test_a_table_that_cannot_be_read_changes_nothing(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    before = await front.put(proc("hello", one))
    good = b'{"lain_table":1,"revision":9,"lines":2,"version":"x"}\n'
    entry = b'{"proc":["a","b"],"routes":[%s],"options":{%s},"ready":[%s],"suspect":[]}\n'
    torn = [
        b'{"lain_table":1,"revision":null,"lines":1,"version":"x"}\n',
        b'{"lain_table":1,"revision":9,"lines":1}\n',
        b'{"lain_table":1,"revision":9,"lines":"1","version":"x"}\n',
        b'{"lain_table":1,"revision":9,"lines":1,"version":"x","domains":[1]}\n',
        good + entry % (b'{"path":"/"}', b"", b'"10.0.0.1:80"'),
        good + entry % (b'{"host":1,"path":"/"}', b"", b'"10.0.0.1:80"'),
        good + entry % (b"", b'"max_body_bytes":null', b'"10.0.0.1:80"'),
        good + entry % (b"", b"", b'"10.0.0.1"'),
        good + entry % (b"", b"", b"null"),
        good + b'{"certificate":"a.example","cert":1,"key":"k"}\n',
    ]
    for bad in (b"nonsense\n", good, good + b"{}\n", good + b'{"proc":["a","b"]}\n', good + b'{"proc":1}\n', *torn):
        with pytest.raises(TableRefused):
            await front.nginx.put_table(bad)
    assert (await front.state()).version == before.version
    assert (await front.get("/")).status == 200


async def test_hostile_text_is_data(front: Front, backends: Callable[..., Any]) -> None:
    """Validation is the watcher's; even without it nothing in the table can become configuration or break another app."""
    (one,) = await backends("one")
    evil = '"; return 200 evil; #'
    hostile = ProcEntry(
        evil,
        "../..",
        (Route(evil, evil), Route("$host", "/${request_uri}"), Route("*", "/")),
        ready=("999.1.1.1:0",),
        created=0,
    )
    await front.put(hostile, proc("hello", one))
    assert (await front.get("/")).json["backend"] == "one"
    assert (await front.get("/", "$host")).status in (400, 404)
    assert (await front.state()).version is not None


async def test_what_is_in_flight_is_known_per_address(front: Front, backends: Callable[..., Any]) -> None:
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    asking = [asyncio.create_task(front.get("/slow")) for _ in range(4)]
    socket = await front.session.ws_connect(
        f"http://127.0.0.1:{front.box.http_port}/ws", headers={"Host": "hello.example"}
    )
    await eventually(lambda: one.waiting + two.waiting == 4, what="four requests wait")

    async def counted(wanted: int) -> bool:
        inflight = (await front.state()).inflight  # another worker's count may be a tick old
        return sum(inflight.values()) == wanted and set(inflight) <= {one.address, two.address}

    await eventually(lambda: counted(5), 1)
    one.release.set()
    two.release.set()
    await asyncio.gather(*asking)
    await eventually(lambda: counted(1), 1, "the websocket")
    await socket.close()
    await eventually(lambda: counted(0), what="nothing is in flight")
    await asyncio.gather(*(front.get("/drop") for _ in range(10)), *(front.get("/nope", "nope") for _ in range(5)))
    asking = [asyncio.create_task(front.get("/slow")) for _ in range(3)]
    one.release.clear()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    one.release.set()
    await eventually(lambda: counted(0), what="nothing is in flight after failures and clients that left")


async def test_a_proc_that_does_not_answer_takes_no_more_than_its_share(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    front = await make_front(workers="1", proc_requests="5")
    assert isinstance(front, Front)
    slow, other = await backends("slow", "other")
    await front.put(proc("sink", slow), proc("hello", other, host="other.example", created=2))
    held = [asyncio.create_task(front.get("/slow")) for _ in range(5)]
    await eventually(lambda: slow.waiting == 5, what="five wait")
    refused = await front.get("/slow", headers={"Accept": "application/json"})
    assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_requests")
    assert refused.headers["Retry-After"] == "5"
    assert (await front.get("/", "other.example")).status == 200, "another app is served as ever"
    await front.put(proc("sink", slow, other), proc("hello", other, host="other.example", created=2))
    assert (await front.get("/slow")).status == 503, "what is in flight counts over a change of the table"
    slow.release.set()
    assert [(await one).status for one in held] == [200] * 5
    assert (await front.get("/")).status == 200
