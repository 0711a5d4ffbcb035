"""A command inside an instance: its streams, its exit code, and a terminal that is given back as it was."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from lain_cli.commands.streams import choose_proc, moment, split_words
from lain_cli.targets import Target, parse_words
from lain_shared.errors import Invalid, NotFound
from tests.fixtures.cli import FakeConsole, Lain
from tests.unit.cli import views

PROC = "/api/v1/apps/hello/procs/web/"
EXEC = PROC + "instances/1/exec/"


@pytest.fixture
def heard(console: FakeConsole) -> list[Any]:
    """What the far side was sent. It echoes, and ends with 7 at the word ``bye`` or at the end of input."""
    got: list[Any] = []

    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_bytes(b"\x01hello\r\n")
        await socket.send_bytes(b"\x02a warning\n")
        async for message in socket:
            got.append(message.data)
            if message.type is WSMsgType.BINARY:
                await socket.send_bytes(b"\x01" + message.data)
            if message.data == json.dumps({"eof": True}) or b"bye" in (
                message.data if isinstance(message.data, bytes) else b""
            ):
                await socket.send_str(json.dumps({"exit": 7}))

    console.answers["GET", PROC] = views.proc(pods=(views.pod(1),))
    console.sockets[EXEC] = talk
    return got


def command(lain: Lain, *words: str) -> list[str]:
    script = "from lain_cli.main import lain; lain()"
    return [sys.executable, "-c", script, *words]


def test_in_a_pipe_streams_and_exit_code_pass_through(lain: Lain, console: FakeConsole, heard: list[Any]) -> None:
    done = subprocess.run(
        command(lain, "exec", "--app", "hello", "web", "--", "cat", "-A"), input=b"some\xffinput", capture_output=True,
        env=lain.environ, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, b"hello\r\nsome\xffinput", b"a warning\n")
    assert b"".join(part for part in heard if isinstance(part, bytes)) == b"some\xffinput"
    asked = console.asked[-1]
    assert asked.path == EXEC and "tty" not in asked.query and asked.query["cmd"] in ("cat", "-A")


def test_a_file_can_be_standard_input(lain: Lain, heard: list[Any], console: FakeConsole) -> None:
    path = lain.directory / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("rb") as file:
        words = command(lain, "exec", "hello", "web", "1", "--", "cat")
        done = subprocess.run(words, stdin=file, capture_output=True, env=lain.environ, timeout=30, check=False)
    assert done.returncode == 7 and done.stdout == b"hello\r\n" + b"x" * 100_000


def test_at_a_terminal_every_key_goes_and_the_terminal_comes_back(
    lain: Lain, heard: list[Any], console: FakeConsole
) -> None:
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    termios.tcsetwinsize(its, (40, 120))
    before = termios.tcgetattr(its)
    process = subprocess.Popen(
        command(lain, "exec", "hello", "web", "1", "--"), stdin=its, stdout=its, stderr=its, env=lain.environ
    )
    try:
        assert read_until(ours, b"hello")
        os.write(ours, b"\x03key")
        assert read_until(ours, b"\x03key")
        os.write(ours, b"bye")
        assert process.wait(20) == 7
    finally:
        process.kill()
        process.wait()
    assert termios.tcgetattr(its) == before
    os.close(ours)
    os.close(its)
    assert json.dumps({"resize": [120, 40]}) in heard
    assert b"\x03" in b"".join(part for part in heard if isinstance(part, bytes))
    assert console.asked[-1].query["tty"] == "true"


def read_until(descriptor: int, wanted: bytes, seconds: float = 20.0) -> bool:
    seen, deadline = b"", time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            seen += os.read(descriptor, 4096)
    return wanted in seen


def test_a_connection_that_breaks_off_is_no_success(lain: Lain, console: FakeConsole) -> None:
    async def vanish(socket: web.WebSocketResponse) -> None:
        await socket.close()

    console.answers["GET", PROC] = views.proc(pods=(views.pod(1),))
    console.sockets[EXEC] = vanish
    with (lain.directory / "empty").open("w+b") as empty:
        words = command(lain, "exec", "hello", "web", "--", "true")
        done = subprocess.run(words, stdin=empty, capture_output=True, env=lain.environ, timeout=30, check=False)
    assert done.returncode == 6 and b"broke off" in done.stderr


def test_an_instance_that_is_not_there_is_told_before_connecting(lain: Lain, console: FakeConsole) -> None:
    console.answers["GET", PROC] = views.proc(pods=(views.pod(1),))
    done = lain("exec", "hello", "web", "2", "--", "true")
    assert done.code == 1 and "no running instance web-2" in done.err


@pytest.mark.parametrize(
    ("words", "where", "argv"),
    [
        (("web", "--", "ls", "-l"), ("web",), ("ls", "-l")),
        (("web", "2", "--", "ls"), ("web", "2"), ("ls",)),
        (("hello", "web", "2", "--", "ls", "--", "x"), ("hello", "web", "2"), ("ls", "--", "x")),
        (("web", "ls", "-l"), ("web",), ("ls", "-l")),
        (("web", "2", "ls"), ("web", "2"), ("ls",)),
    ],
)
def test_words_of_exec(words: tuple[str, ...], where: tuple[str, ...], argv: tuple[str, ...]) -> None:
    assert split_words(words) == (where, argv)


def test_without_a_command_a_shell() -> None:
    assert split_words(("web",))[1][0] == "/bin/sh" and split_words(("web", "--"))[1][0] == "/bin/sh"


@pytest.mark.parametrize(
    ("words", "app", "expected"),
    [
        ((), None, Target(None)),
        (("web",), None, Target(None, "web")),
        (("hello",), None, Target("hello")),
        (("web", "2"), None, Target(None, "web", 2)),
        (("hello", "web"), None, Target("hello", "web")),
        (("hello", "web", "2"), None, Target("hello", "web", 2)),
        (("web",), "other", Target("other", "web")),
        (("web", "2"), "other", Target("other", "web", 2)),
        (("hello",), "other", Target("other", "hello")),
    ],
)
def test_words_name_app_proc_and_number(words: tuple[str, ...], app: str | None, expected: Target) -> None:
    assert parse_words(words, app, lambda word: word == "hello") == expected


def test_which_proc() -> None:
    assert choose_proc(["a"], None, "x") == "a"
    assert choose_proc(["a", "web"], None, "x") == "web"
    assert choose_proc(["a", "b"], "b", "x") == "b"
    with pytest.raises(Invalid):
        choose_proc(["a", "b"], None, "x")
    for names, wanted in ((["a"], "b"), ([], None)):
        with pytest.raises(NotFound):
            choose_proc(names, wanted, "x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10m", 1000 - 600), ("1.5h", 1000 - 5400), ("2d", 1000 - 172800), ("123", 123.0), ("123.5", 123.5)],
)
def test_moments(text: str, expected: float) -> None:
    assert moment(text, 1000.0) == expected


def test_a_moment_can_be_a_date() -> None:
    assert moment("2026-01-31T12:00", 0.0) == time.mktime((2026, 1, 31, 12, 0, 0, 0, 0, -1))
