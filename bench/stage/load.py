"""Requests at a fixed rate on keep-alive connections, from a process of its own; every one of them is written down.

An open loop: a request is due at its time whether earlier ones were answered or not, and its latency counts from then (so a pause of the
server shows whole: "coordinated omission", G. Tene, How NOT to Measure Latency). A connection that the server closed while idle is not
used again, as any HTTP client does; whatever happens to a request that was sent is its outcome, and nothing is tried again.

    with Load.running(port, ["hello.lain.localhost"], rate=500, post_share=0.1) as load:
        began = time.time()
        ...
        print(load.window(began, time.time()).failures)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.report import quantile

ANSWER_SECONDS = 30.0
IDLE_SECONDS = 30.0
CONNECTIONS = 5000
"""So many that a pause of seconds shows as latency and not as a failure of our own."""
BODY = b"x" * 1024
OK = "200"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. ``due``: unix seconds; ``milliseconds``: from then to its whole answer; ``outcome``: the status, or what broke."""

    due: float
    milliseconds: float
    outcome: str
    host: str
    said: str


@dataclass(frozen=True, slots=True)
class Window:
    """The requests that were due in a span of time."""

    samples: tuple[Sample, ...]

    @property
    def requests(self) -> int:
        return len(self.samples)

    @property
    def failures(self) -> tuple[Sample, ...]:
        """Everything but a 200."""
        return tuple(sample for sample in self.samples if sample.outcome != OK)

    def milliseconds(self, share: float = 0.99) -> float:
        """That quantile of the latencies of what was answered well; NaN when nothing was."""
        return quantile([sample.milliseconds for sample in self.samples if sample.outcome == OK], share)

    def named(self, most: int = 10) -> list[str]:
        """The failures, for a note."""
        shown = [f"{one.due:.3f} {one.host} {one.outcome} after {one.milliseconds:.0f} ms" for one in self.failures]
        return shown[:most]


@dataclass(slots=True)
class Load:
    """The running generator. ``log``: a line a request, as each ends."""

    process: subprocess.Popen[str]
    log: Path
    rate: float
    _read: int = 0
    _samples: list[Sample] = field(default_factory=list)
    _whole: bool = False

    @classmethod
    @contextlib.contextmanager
    def running(
        cls, port: int, hosts: Sequence[str], *, rate: float, post_share: float = 0.0, path: str = "/",
        address: str = "127.0.0.1",
    ) -> Iterator[Load]:  # fmt: skip
        """Load on ``address:port`` until the block ends; requests that are out then are waited for."""
        with tempfile.TemporaryDirectory(prefix="lain-load-") as folder:
            log = Path(folder) / "log"
            log.touch()
            process = subprocess.Popen(
                [
                    sys.executable, "-m", "bench.stage.load", "--address", address, "--port", str(port), "--rate", str(rate),
                    "--post-share", str(post_share), "--path", path, "--log", str(log), *hosts,
                ],
                stdin=subprocess.PIPE, text=True,
            )  # fmt: skip
            load = cls(process, log, rate)
            try:
                yield load
            finally:
                load.end()

    def hosts(self, *hosts: str) -> None:
        """From now on these are asked, in turn."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(hosts) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Send nothing more, and wait for what is out. What was written down stays known."""
        if self._whole:
            return
        if self.process.poll() is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(ANSWER_SECONDS + 10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._catch_up()
        self._whole = True

    def window(self, began: float, ended: float, *, host: str | None = None) -> Window:
        """What was due from ``began`` to ``ended`` (unix seconds), all answered or given up: waits for the last of it."""
        while not self._whole:
            over = self.process.poll() is not None or time.time() > ended + ANSWER_SECONDS + 5
            self._catch_up()
            if over or (time.time() > ended and not outstanding(self._samples, began, ended, self.rate)):
                break
            time.sleep(0.05)
        return Window(
            tuple(one for one in self._samples if began <= one.due < ended and (host is None or one.host == host))
        )

    def _catch_up(self) -> None:
        with self.log.open() as file:
            file.seek(self._read)
            text = file.read()
        whole = text.rpartition("\n")[0]
        self._read += len((whole + "\n").encode()) if whole else 0
        for line in whole.splitlines():
            due, milliseconds, *words = line.split("\t")
            self._samples.append(
                Sample(float(due), float(milliseconds), *map(sys.intern, words))
            )  # a long run holds many


def outstanding(samples: Sequence[Sample], began: float, ended: float, rate: float) -> int:
    """How many requests that were due from ``began`` to ``ended`` are not written down: one that hangs must not be left out (pure)."""
    if not samples:
        return 1
    first = min(sample.due for sample in samples)
    known = {round((sample.due - first) * rate) for sample in samples}
    due = range(max(0, math.ceil((began - first) * rate)), math.ceil((ended - first) * rate))
    return sum(number not in known for number in due)


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.closed = False
        self._answer: asyncio.Future[tuple[str, bytes]] | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[str, bytes]]:
        """Status and body to come; ConnectionError when the connection ends first."""
        assert self.transport is not None
        self._buffer = b""
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or self._answer is None or self._answer.done():
            return
        lower = head.lower()
        if b"\r\nconnection: close" in lower:
            self.closed = True
        at = lower.find(b"\r\ncontent-length:")
        if at >= 0:
            length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
            whole = len(body) >= length
        else:
            whole = body.endswith(b"0\r\n\r\n")
        if whole:
            self._answer.set_result((head[9:12].decode(), body))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            kind = "reset" if error else "closed"
            part = "in the answer" if self._buffer else "before the answer"
            self._answer.set_exception(ConnectionError(f"{kind} {part}"))

    def close(self) -> None:
        self.closed = True
        if self.transport is not None:
            self.transport.abort()


class Generator:
    """Sends what is due."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self._asked = asked
        self._hosts: list[str] = list(asked.hosts)
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._lines: list[str] = []
        self._random = random.Random(1)

    async def run(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        orders = asyncio.create_task(self._orders(reader))
        writing = asyncio.create_task(self._write())
        asking: set[asyncio.Task[None]] = set()
        began, sent = time.time(), 0
        while not orders.done():
            now = time.time()
            while began + sent / self._asked.rate <= now:
                due = began + sent / self._asked.rate
                task = asyncio.create_task(self._ask(due, self._hosts[sent % len(self._hosts)]))
                asking.add(task)
                task.add_done_callback(asking.discard)
                sent += 1
            await asyncio.sleep(max(0.0005, began + sent / self._asked.rate - time.time()))
        if asking:
            await asyncio.wait(asking, timeout=ANSWER_SECONDS)
        writing.cancel()
        self._flush()

    async def _orders(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            self._hosts = line.decode().split()

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self._flush()

    def _flush(self) -> None:
        if self._lines:
            with Path(self._asked.log).open("a") as file:
                file.write("".join(self._lines))
            self._lines.clear()

    async def _ask(self, due: float, host: str) -> None:
        post = self._random.random() < self._asked.post_share
        head = f"{'POST' if post else 'GET'} {self._asked.path} HTTP/1.1\r\nHost: {host}\r\n"
        request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY if post else f"{head}\r\n".encode()
        connection, said = None, ""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                connection = await self._connection()
                outcome, body = await connection.ask(request)
                said = body.decode(errors="replace").strip().replace("\t", " ").replace("\n", " ")[:80]
        except TimeoutError:
            outcome = "no answer"
        except OSError as error:
            outcome = f"{'POST' if post else 'GET'} {error if str(error) else type(error).__name__}"
        if connection is not None:
            if connection.closed or outcome == "no answer":
                connection.close()
                self._open -= 1
            else:
                connection.idle_since = time.monotonic()
                self._idle.append(connection)
        self._lines.append(f"{due:.4f}\t{1000 * (time.time() - due):.2f}\t{outcome}\t{host}\t{said}\n")

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
            self._open -= 1
        if self._open >= CONNECTIONS:
            raise ConnectionError(f"all {CONNECTIONS} connections are busy")
        self._open += 1
        try:
            loop = asyncio.get_running_loop()
            return (await loop.create_connection(Connection, self._asked.address, self._asked.port))[1]
        except BaseException:
            self._open -= 1
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--post-share", type=float, default=0.0)
    parser.add_argument("--path", default="/")
    parser.add_argument("--log", required=True)
    parser.add_argument("hosts", nargs="+")
    asyncio.run(Generator(parser.parse_args()).run())


if __name__ == "__main__":
    os.nice(-5) if os.geteuid() == 0 else None
    main()
