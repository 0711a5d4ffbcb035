"""The supervisor: when nginx starts, what happens when it dies, what it refuses, what it logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lain_shared.testing import eventually
from lain_watcher.table import Table, encode
from tests.fixtures.nginx import SUPERVISOR, NginxBox, is_open
from tests.fixtures.routing import Front, proc


async def test_a_killed_master_is_back_within_a_second_with_the_last_table(
    front: Front, backends: Callable[..., Any]
) -> None:
    """R15. Its orphaned workers would keep the ports: they are gone before the next master starts."""
    (one,) = await backends("one")
    before = await front.put(proc("hello", one))
    front.box.write_table(encode(front.table(proc("hello", one))).text)
    master, workers = front.box.master, front.box.workers
    began = time.monotonic()
    os.kill(master, signal.SIGKILL)

    async def back() -> bool:
        state = await front.nginx.state()
        return state is not None and state.boot_id != before.boot_id

    await eventually(back, 5, "another nginx")
    assert time.monotonic() - began < 1.0
    assert (await front.get("/")).status == 200
    assert front.box.master != master
    assert not [pid for pid in workers if is_running(pid)]
    assert (await front.state()).revision == before.revision


async def test_a_killed_worker_is_replaced_and_its_requests_count_no_more(
    front: Front, backends: Callable[..., Any]
) -> None:
    (one,) = await backends("one")
    before = await front.put(proc("hello", one))
    asking = [asyncio.create_task(front.get("/slow")) for _ in range(8)]
    await eventually(lambda: one.waiting == 8)

    async def counted() -> bool:  # another worker's count may be a tick old
        return (await front.state()).inflight == {one.address: 8}

    await eventually(counted, 5, "every worker's requests counted")
    for pid in front.box.workers:
        os.kill(pid, signal.SIGKILL)
    one.release.set()  # clients that ask again get their answer
    await asyncio.gather(*asking, return_exceptions=True)

    async def healed() -> bool:
        state = await front.nginx.state()
        return (
            state is not None and state.inflight == {} and len(state.workers) == 2 and state.version == before.version
        )

    await eventually(healed, 5, "two workers with the same table, nothing in flight")
    assert (await front.state()).boot_id == before.boot_id
    assert (await front.get("/")).status == 200


async def test_a_reload_keeps_the_table_and_the_boot_id(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    before = await front.put(proc("hello", one))
    old = front.box.workers
    assert front.box.process is not None
    front.box.process.send_signal(signal.SIGHUP)

    async def reloaded() -> bool:
        state = await front.state()
        pids = {int(pid) for pid in state.workers}
        return len(pids) == 2 and not pids & set(old) and state.version == before.version

    await eventually(reloaded, 5, "new workers, same table")
    assert (await front.state()).boot_id == before.boot_id
    assert (await front.get("/")).status == 200


async def test_an_old_worker_still_tells_what_it_has_in_flight(
    make_front: Callable[..., Any], backends: Callable[..., Any]
) -> None:
    """After a reload it ends its requests, and begins those whose body it still reads: pods stay busy, acknowledgements true."""
    front: Front = await make_front(workers="1")
    ending, staying, late = await backends("ending", "staying", "late")
    await front.put(proc("a", ending, host="a.example"), proc("b", staying, host="b.example"))
    asking = [asyncio.create_task(front.get("/slow", host)) for host in ("a.example", "b.example")]
    reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
    writer.write(b"GET /slow HTTP/1.1\r\nHost: b.example\r\nContent-Length: 4\r\n\r\nab")
    await eventually(lambda: ending.waiting == staying.waiting == 1)
    (old,) = front.box.workers
    assert front.box.process is not None
    front.box.process.send_signal(signal.SIGHUP)

    async def reloaded() -> bool:
        return str(old) not in (await front.state()).workers

    await eventually(reloaded, 5, "a new worker")
    await front.put(proc("a", ending, host="a.example"), proc("b", late, host="b.example"))
    writer.write(b"cd")
    await eventually(lambda: late.waiting == 1)
    everything = {ending.address: 1, staying.address: 1, late.address: 1}
    assert (await front.state()).inflight == everything
    state = await front.put(proc("b", draining=(staying.address, late.address), host="b.example"))
    assert str(old) not in state.workers
    ending.release.set()
    assert (await asking[0]).status == 200

    async def told() -> bool:
        return (await front.state()).inflight == {staying.address: 1, late.address: 1}

    await eventually(told, 5, "what ended is idle")
    assert is_running(old)
    late.release.set()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    staying.release.set()
    assert (await asking[1]).status == 200
    writer.close()


async def test_a_successor_listens_while_the_old_one_ends_its_requests(
    front: Front, backends: Callable[..., Any]
) -> None:
    """So `lain local up` upgrades it: SIGQUIT, and the next container started at once."""
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    front.box.settings["LAIN_NGINX_GRACE_SECONDS"] = "30"
    front.box.write_table(encode(front.table(proc("hello", one))).text)
    assert await asyncio.to_thread(front.box.stop) == 0
    await asyncio.to_thread(front.box.start)
    asking = asyncio.create_task(front.get("/slow"))
    await eventually(lambda: one.waiting == 1)
    assert front.box.process is not None
    front.box.process.send_signal(signal.SIGQUIT)
    run = {"LAIN_NGINX_RUN": str(front.box.root / "next")}
    successor = replace(front.box, settings=front.box.settings | run, process=None)
    try:
        await asyncio.to_thread(successor.start)
        assert front.box.process.poll() is None, "the old one waits for its request"
        assert (await front.get("/")).status == 200
        one.release.set()
        assert (await asking).status == 200
        assert await asyncio.to_thread(front.box.process.wait, 10) == 0
        assert successor.answers(), "the old one's end takes nothing from its successor"
        assert (await front.get("/")).status == 200
    finally:
        await asyncio.to_thread(successor.stop)


async def test_a_second_nginx_takes_nothing_from_the_first(front: Front, backends: Callable[..., Any]) -> None:
    """It waits for its turn: with its control socket gone, an nginx would serve an old table for ever."""
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    front.box.write_table(encode(front.table(proc("hello", one))).text)
    run = {"LAIN_NGINX_RUN": str(front.box.root / "next")}
    second = replace(front.box, settings=front.box.settings | run, process=None)
    first = (await front.state()).boot_id
    try:
        second.start(wait=False)
        await eventually(lambda: "waiting_for_another_nginx" in second.said)
        assert (await front.state()).boot_id == first
        assert await asyncio.to_thread(front.box.stop) == 0

        async def took_over() -> bool:
            state = await front.nginx.state()
            return state is not None and state.boot_id != first

        await eventually(took_over, 5, "the second one's turn")
        assert (await front.get("/")).status == 200
    finally:
        await asyncio.to_thread(second.stop)


async def test_a_stop_without_a_successor_is_quick(front: Front, backends: Callable[..., Any]) -> None:
    """Nobody listens while it ends its requests: `docker restart` waits for that before it starts the next."""
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    asking = asyncio.create_task(front.get("/slow"))
    await eventually(lambda: one.waiting == 1)
    began = time.monotonic()
    assert await asyncio.to_thread(front.box.stop) == 0
    assert time.monotonic() - began < 5, "not the grace of 10 s"
    with pytest.raises(OSError):
        await asking


def test_it_listens_only_when_the_watcher_says_so(nginx_box: NginxBox) -> None:
    nginx_box.settings["LAIN_NGINX_WAIT_SECONDS"] = "60"
    nginx_box.write_table(encode(Table(1)).text)
    gate = nginx_box.shared / "gate"
    gate.touch()  # of the container's last life: it does not count
    nginx_box.start(wait=False)
    deadline = time.monotonic() + 5
    while gate.exists():
        assert time.monotonic() < deadline, "the old gate is still there"
    assert not is_open(nginx_box.http_port)
    gate.touch()
    nginx_box.wait_up(5)
    assert nginx_box.stop() == 0


def test_without_a_watcher_it_starts_from_the_last_table_after_a_while(nginx_box: NginxBox) -> None:
    nginx_box.settings["LAIN_NGINX_WAIT_SECONDS"] = "0.3"
    nginx_box.write_table(encode(Table(1)).text)
    nginx_box.start()
    assert "started_without_the_watcher" in nginx_box.said


def test_a_stop_while_it_waits_is_prompt(nginx_box: NginxBox) -> None:
    nginx_box.start(wait=False)
    deadline = time.monotonic() + 5
    while "waiting_for_the_watcher" not in nginx_box.said:
        assert time.monotonic() < deadline
    assert nginx_box.stop() == 0


def test_a_stop_while_nginx_is_being_started_stops_it_too(nginx_box: NginxBox) -> None:
    """The signal comes when nginx's process exists and the supervisor does not know it yet."""
    nginx_box.write_table(encode(Table(1)).text)
    program = f"""
import os, signal, subprocess, sys
sys.path.insert(0, {str(SUPERVISOR.parent)!r})
import supervisor
class Popen(subprocess.Popen):
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        print(self.pid, flush=True)
subprocess.Popen = Popen
sys.exit(supervisor.main())
"""
    environ = {**nginx_box.environ, "LAIN_NGINX_GRACE_SECONDS": "30"}
    began = subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE)
    assert began.stdout is not None
    with began.stdout as output:
        master = int(output.readline())
    try:
        assert began.wait(timeout=10) == 0
        assert not is_running(master)
    finally:
        for pid in (began.pid, master) if began.poll() is None else ():
            os.kill(pid, signal.SIGTERM)


async def test_a_stop_lets_requests_in_flight_end(front: Front, backends: Callable[..., Any]) -> None:
    (one,) = await backends("one")
    await front.put(proc("hello", one))
    asking = asyncio.create_task(front.get("/slow"))
    await eventually(lambda: one.waiting == 1)
    stopping = asyncio.create_task(asyncio.to_thread(front.box.stop, signal.SIGQUIT))
    await eventually(lambda: not is_open(front.box.http_port), what="it accepts nothing new")
    one.release.set()
    assert (await asking).status == 200
    assert await stopping == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORT", "eighty"),
        ("HTTP_PORT", "70000"),
        ("SHARED", "/tmp/x; include /etc/passwd"),
        ("TRUSTED", "10.0.0.0/8; }"),
        ("LISTEN", "localhost"),
        ("WORKERS", "many"),
        ("LOG_FORMAT", "xml"),
        ("HTP_PORT", "80"),
        ("USER", "root; daemon on"),
    ],
)
def test_a_bad_setting_ends_the_start_in_one_line_that_names_it(name: str, value: str) -> None:
    environ = {**os.environ, f"LAIN_NGINX_{name}": value}
    ended = subprocess.run([sys.executable, str(SUPERVISOR)], env=environ, capture_output=True, check=False, timeout=20)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert f"LAIN_NGINX_{name}" in json.loads(line)["error"]


def test_the_check_tells_a_dead_nginx_from_a_living_one(nginx_box: NginxBox) -> None:
    nginx_box.write_table(encode(Table(1)).text)
    check = [sys.executable, str(SUPERVISOR), "--check"]
    assert subprocess.run(check, env=nginx_box.environ, check=False).returncode == 1
    nginx_box.start()
    assert subprocess.run(check, env=nginx_box.environ, check=False).returncode == 0


HOSTILE = '@evil@ "x" \\ {"status":200}\t'


async def test_the_json_log_is_exact_whatever_the_client_sends(front: Front, backends: Callable[..., Any]) -> None:
    """R23, first half."""
    one, two = await backends("one", "two")
    await front.put(proc("hello", one, two))
    await front.get(
        '/a?q="@\\', headers={"User-Agent": HOSTILE.strip(), "Referer": 'http://x/"@', "X-Request-Id": "r-1"}
    )
    await one.stop()
    await front.get("/b")
    await front.get("/c")
    await front.get("/", "nobody.example")
    logged = [json.loads(line) for line in front.box.lines(4)]
    first = logged[0]
    assert first["user_agent"] == HOSTILE.strip()
    assert first["referer"] == 'http://x/"@'
    assert first["uri"] == '/a?q="@\\'
    assert (first["app"], first["proc"], first["status"], first["request_id"]) == ("hello", "web", 200, "r-1")
    assert first["upstream"] in (one.peer, two.peer)
    retried = next(line for line in logged if ", " in line["upstream"])
    assert (retried["upstream"], retried["upstream_status"], retried["status"]) == (
        f"{one.peer}, {two.peer}",
        "502, 200",
        200,
    )
    assert (logged[3]["status"], logged[3]["app"], logged[3]["host"]) == (404, "", "nobody.example")


async def test_no_bytes_make_a_line_of_the_log_invalid(front: Front) -> None:
    for agent in ("Grüße €".encode(), b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"a\x7fb", b"plain"):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.box.http_port)
        writer.write(b"GET /\xe4 HTTP/1.0\r\nHost: nobody.example\r\nUser-Agent: " + agent + b"\r\n\r\n")
        await reader.read()
        writer.close()
    logged = [json.loads(line) for line in front.box.lines(6)]
    odd = "(not UTF-8)"
    assert [line["user_agent"] for line in logged] == ["Grüße €", odd, odd, odd, "a\x7fb", "plain"]
    assert {line["uri"] for line in logged} == {odd}
    assert {line["status"] for line in logged} == {404}


async def test_the_legacy_log_cannot_be_forged(make_front: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """R23, second half: split at every ``@``, each field is where the original's collector looks for it."""
    (one,) = await backends("one")
    front: Front = await make_front(log_format="legacy")
    await front.put(proc("hello", one))
    await front.get("/a@b?c@d", headers={"User-Agent": HOSTILE.strip(), "Referer": "x@y", "X-Forwarded-For": "1@2"})
    (line,) = front.box.lines(1)
    fields = line.decode().split("@")
    assert len(fields) == 14
    assert fields[0] == "127.0.0.1"
    assert fields[3] == "hello.example"
    assert fields[4] == '"GET /a%40b?c%40d HTTP/1.1"'
    assert fields[5] == "200"
    assert fields[8].startswith("%40evil%40 \\x22x")
    assert (fields[10], fields[12]) == ("upstream_response_time", "request_time")


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
