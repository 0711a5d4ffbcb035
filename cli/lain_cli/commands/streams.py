"""Streams out of a running instance: its output, and a command inside it with this terminal."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from lain_cli.context import Run
from lain_cli.options import app_option, command
from lain_cli.targets import read_proc, read_target
from lain_shared.errors import Invalid, NotFound, Unavailable
from lain_shared.stopping import together

if TYPE_CHECKING:
    import aiohttp

    from lain_sdk.client import Console

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, now: float) -> float:
    """``10m`` (ago), a unix time, or ``2026-01-31T12:00[:00]`` local time, as seconds since the epoch (pure but for the zone)."""
    if found := _DURATION.match(text):
        return now - float(found[1]) * _SECONDS[found[2]]
    with suppress(ValueError):
        return float(text)
    for form in ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"):
        with suppress(ValueError):
            return time.mktime(time.strptime(text, form))
    raise click.UsageError(f"{text!r} is no time: 10m, 2h, 2026-01-31T12:00, or seconds since the epoch")


@command("logs", output=False, examples=("lain logs", "lain logs web 2 -f", "lain logs web --since 10m --tail 100"))
@click.argument("words", nargs=-1, metavar="[APP] [PROC] [N]")
@app_option
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, until Ctrl-C.")
@click.option("--since", metavar="TIME", help="From then on: 10m, 2h, 2026-01-31T12:00.")
@click.option("--previous", is_flag=True, help="Of the container before this one (why did it die?).")
@click.option("-n", "--tail", type=click.IntRange(0), metavar="LINES", help="Only so many of the last lines.")
def logs(
    run: Run,
    *,
    words: tuple[str, ...],
    app: str | None,
    follow: bool,
    since: str | None,
    previous: bool,
    tail: int | None,
) -> None:
    """Output of one instance, or of all of a proc (default: of the only, or the web proc)."""
    if follow and previous:
        raise click.UsageError("--follow and --previous exclude each other: the container before writes no more")
    target = read_target(run, words, app)
    name, proc, instance = str(target.app), target.proc, target.number
    start = moment(since, time.time()) if since else None

    async def body(console: Console) -> None:
        view = await console.app(name)
        chosen = choose_proc([one.name for one in view.procs], proc, name)
        found = next(one for one in view.procs if one.name == chosen)
        every = [one for one in range(1, found.instances + 1) if one not in found.stopped] or [1]
        numbers = every if instance is None else [instance]
        options = {"follow": follow, "since": start, "previous": previous, "tail": tail}
        tagged = len(numbers) > 1

        async def one(number: int) -> None:
            mark = f"{chosen}-{number} | ".encode() if tagged else b""
            try:
                async for line in console.logs(name, chosen, number, **options):  # type: ignore[arg-type]
                    sys.stdout.buffer.write(mark + line + b"\n")
                    sys.stdout.buffer.flush()
            except (NotFound, Unavailable) as error:
                if not tagged:
                    raise
                run.progress.line(f"{chosen}-{number}: {error.message}", "warn")

        if follow:
            await together(*(one(number) for number in numbers))
        else:
            for number in numbers:
                await one(number)

    try:
        run.call(body)
    except KeyboardInterrupt:
        if not follow:
            raise


def choose_proc(procs: list[str], wanted: str | None, app: str) -> str:
    """The proc that is meant: the one named, the only one, or ``web`` (pure)."""
    if wanted is not None:
        if wanted not in procs:
            raise NotFound(
                f"{app} has no proc {wanted!r}", evidence={"procs": procs}, next="lain ps", code="proc_not_found"
            )
        return wanted
    if len(procs) == 1:
        return procs[0]
    if "web" in procs:
        return "web"
    if not procs:
        raise NotFound(f"{app} runs nothing", next="lain deploy", code="not_deployed")
    raise Invalid("which proc?", evidence={"procs": procs}, next=f"lain logs {procs[0]}", code="proc_ambiguous")


@command(
    "exec", output=False, examples=("lain exec web", "lain exec web 2 -- sh -c 'env | sort'"),
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)  # fmt: skip
@app_option
@click.argument("words", nargs=-1, required=True, metavar="[APP] PROC [N] [-- COMMAND…]", type=click.UNPROCESSED)
def exec_(run: Run, app: str | None, words: tuple[str, ...]) -> int:
    """Run a command inside an instance (default: instance 1, a shell), with this terminal. Its exit code is ours.

    Options of lain go before PROC: what follows it belongs to the command.
    """
    where, argv = split_words(words)
    target = read_proc(run, where, app)
    name, proc, instance = str(target.app), str(target.proc), target.number or 1
    tty = sys.stdin.isatty() and sys.stdout.isatty()

    async def body(console: Console) -> int:
        view = await console.proc(name, proc)
        if not any(pod.instance == instance and pod.started_at for pod in view.pods):
            there = sorted({pod.instance for pod in view.pods})
            raise NotFound(
                f"{name} has no running instance {proc}-{instance}", evidence={"instances": there},
                next=f"lain ps {run.hint}--app {name}", code="instance_not_found",
            )  # fmt: skip
        async with console.exec(name, proc, instance, argv, tty=tty) as socket:
            return await _Terminal(socket, tty=tty).run()

    return run.call(body)


SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh")


def split_words(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``web 2 -- ls -l`` → (web 2), (ls -l). Without ``--``: proc, a number if there is one, then the command (pure)."""
    if "--" in words:
        cut = words.index("--")
        return words[:cut], words[cut + 1 :] or SHELL
    cut = 2 if len(words) > 1 and words[1].isdecimal() else 1
    return words[:cut], words[cut:] or SHELL


class _Terminal:
    """This process's standard streams on one side, the websocket on the other."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, tty: bool) -> None:
        self._socket = socket
        self._tty = tty

    async def run(self) -> int:
        """Until the command ends; its exit code."""
        loop = asyncio.get_running_loop()
        sending: asyncio.Queue[bytes | str | None] = asyncio.Queue()
        with raw_terminal() if self._tty else _nothing():
            if self._tty:
                self._resize(sending)
                loop.add_signal_handler(signal.SIGWINCH, lambda: self._resize(sending))
            stop = _read_stdin(loop, sending)
            pump = asyncio.create_task(self._send(sending))
            try:
                return await self._receive()
            finally:
                stop()
                pump.cancel()
                if self._tty:
                    loop.remove_signal_handler(signal.SIGWINCH)

    def _resize(self, sending: asyncio.Queue[bytes | str | None]) -> None:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
        sending.put_nowait(json.dumps({"resize": [columns, rows]}))

    async def _send(self, sending: asyncio.Queue[bytes | str | None]) -> None:
        while True:
            item = await sending.get()
            if item is None:
                await self._socket.send_str(json.dumps({"eof": True}))
                return
            if isinstance(item, bytes):
                await self._socket.send_bytes(item)
            else:
                await self._socket.send_str(item)

    async def _receive(self) -> int:
        import aiohttp  # noqa: PLC0415 - the client has imported it by now

        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                stream = sys.stderr if message.data[:1] == b"\x02" else sys.stdout
                stream.buffer.write(message.data[1:])
                stream.buffer.flush()
            elif message.type is aiohttp.WSMsgType.TEXT:
                document = json.loads(message.data)
                if "exit" in document:
                    return int(document["exit"])
                if "error" in document:
                    raise Unavailable(
                        "the command could not be run", why=_error_text(document["error"]), code="exec_failed"
                    )
        raise Unavailable(
            "the connection to the instance broke off", next="lain ps; then try again", code="exec_broke_off"
        )


def _error_text(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


def _read_stdin(loop: asyncio.AbstractEventLoop, sending: asyncio.Queue[bytes | str | None]) -> Callable[[], object]:
    """Forward standard input as it comes; the answer stops it. Files are read in a thread: a loop cannot watch them."""
    descriptor = sys.stdin.fileno()

    def ready() -> None:
        data = os.read(descriptor, 1 << 16)
        if not data:
            loop.remove_reader(descriptor)
        sending.put_nowait(data or None)

    try:
        loop.add_reader(descriptor, ready)
    except PermissionError:
        task = loop.create_task(_read_file(descriptor, sending))
        return task.cancel
    return functools.partial(loop.remove_reader, descriptor)


async def _read_file(descriptor: int, sending: asyncio.Queue[bytes | str | None]) -> None:
    while data := await asyncio.to_thread(os.read, descriptor, 1 << 16):
        sending.put_nowait(data)
    sending.put_nowait(None)


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Every key reaches the far side, Ctrl-C too; restored whatever happens."""
    import termios  # noqa: PLC0415 - not there on every platform
    import tty  # noqa: PLC0415

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed ahead stays
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
