"""Requests that two readers of HTTP could take for different ones, at a real nginx with the product's configuration, byte by byte.

Behind it stands a backend that writes down every byte it gets and reads HTTP to the letter (RFC 9112): what it could misread is a
*forwarded ambiguity*. An attack must be refused, or come out as one request with one answer.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

QUIET_SECONDS = 0.3
"""No byte for so long: nothing more comes."""
WAIT_SECONDS = 5.0
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t \x21-\x7e\x80-\xff]*\Z")


@dataclass(frozen=True, slots=True)
class Attack:
    """``refused``: the first answer must be an error of nginx's own and the backend must see nothing. Otherwise: one clean request."""

    name: str
    sent: bytes
    refused: bool = True
    most: int = 1
    """So many requests at most may reach the backend (pipelines of two honest ones: 2)."""


@dataclass(frozen=True, slots=True)
class Forwarded:
    """One request as the backend read it. ``faults``: how another reader could have read it otherwise."""

    head: bytes
    body: bytes
    faults: tuple[str, ...]


@dataclass(slots=True)
class Recorder:
    """The backend. Answers every request with its number on that connection."""

    port: int = 0
    requests: list[Forwarded] = field(default_factory=list)
    leftovers: list[bytes] = field(default_factory=list)
    """Bytes that made no request."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[Recorder]:
        made = cls()
        with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
            made.port = listening.getsockname()[1]
            ended = threading.Event()
            thread = threading.Thread(target=made._accept, args=(listening, ended), daemon=True)
            thread.start()
            yield made
            ended.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)

    def take(self) -> tuple[list[Forwarded], list[bytes]]:
        """What came since the last time."""
        with self._lock:
            found = self.requests, self.leftovers
            self.requests, self.leftovers = [], []
        return found

    def _accept(self, listening: socket.socket, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        data = b""
        connection.settimeout(30)
        with connection:
            while True:
                taken = read_request(data)
                if taken is None:
                    try:
                        piece = connection.recv(65536)
                    except OSError:
                        piece = b""
                    if not piece:
                        if data:
                            with self._lock:
                                self.leftovers.append(data)
                        return
                    data += piece
                    continue
                request, data = taken
                with self._lock:
                    self.requests.append(request)
                body = b"served"
                with contextlib.suppress(OSError):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


def read_request(data: bytes) -> tuple[Forwarded, bytes] | None:
    """The first request in ``data`` and the rest, read to the letter; None: it is not whole yet."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, rest = data[:end], data[end + 4 :]
    line, *fields = head.split(b"\r\n")
    faults: list[str] = []
    if re.fullmatch(rb"[A-Z-]+ /[^ ]* HTTP/1\.[01]", line) is None:
        faults.append(f"request line {line[:80]!r}")
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b"") or b"\0" in head:
        faults.append("a bare CR, LF or NUL in the head")
    lengths: list[bytes] = []
    encodings: list[bytes] = []
    hosts = 0
    for one in fields:
        name, colon, value = one.partition(b":")
        if not colon or not _NAME.match(name) or not _VALUE.match(value):
            faults.append(f"header line {one[:80]!r}")
        match name.lower():
            case b"content-length":
                lengths.append(value.strip())
            case b"transfer-encoding":
                encodings.append(value.strip().lower())
            case b"host":
                hosts += 1
    if len(lengths) > 1 or len(encodings) > 1 or (lengths and encodings):
        faults.append(f"lengths {lengths!r} and encodings {encodings!r}")
    if hosts != 1:
        faults.append(f"{hosts} Host headers")
    if encodings and encodings != [b"chunked"]:
        faults.append(f"encoding {encodings!r}")
    if encodings:
        body = _chunks(rest)
        if body is None:
            return None
        return Forwarded(head, body[0], tuple(faults)), body[1]
    if lengths and not re.fullmatch(rb"[0-9]+", lengths[0]):
        faults.append(f"length {lengths[0]!r}")
        return Forwarded(head, b"", tuple(faults)), b""
    length = int(lengths[0]) if lengths else 0
    if len(rest) < length:
        return None
    return Forwarded(head, rest[:length], tuple(faults)), rest[length:]


def _chunks(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            trailer, found, rest = data.partition(b"\r\n")
            return (body, rest) if found and not trailer else None
        if len(data) < size + 2:
            return None
        body, data = body + data[:size], data[size + 2 :]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack. ``breaches``: what must not be."""

    attack: Attack
    statuses: tuple[int, ...]
    forwarded: tuple[Forwarded, ...]
    breaches: tuple[str, ...]
    seconds: float


def attempt(port: int, recorder: Recorder, attack: Attack) -> Outcome:
    """Send it on a connection of its own, and look at both ends."""
    recorder.take()
    began = time.monotonic()
    answer = _exchange(port, attack.sent)
    seconds = time.monotonic() - began
    statuses = tuple(int(found) for found in re.findall(rb"(?:^|\r\n|served)HTTP/1\.[01] ([0-9]{3}) ", answer))
    forwarded, leftovers = recorder.take()
    breaches = [f"forwarded: {fault}" for one in forwarded for fault in one.faults]
    breaches += [f"forwarded, and no request: {left[:80]!r}" for left in leftovers if not _is_cut_off(left)]
    breaches += [f"answered {status}" for status in statuses if status >= 500 and status not in (501, 505)]
    if attack.refused:
        if forwarded:
            breaches.append(f"{len(forwarded)} requests reached the backend")
        if statuses and not 400 <= statuses[0] < 600:
            breaches.append(f"answered {statuses[0]}")
        if len(statuses) > 1:
            breaches.append(f"{len(statuses)} answers: {statuses}")
    else:
        if len(forwarded) > attack.most:
            breaches.append(f"{len(forwarded)} requests reached the backend")
        if len(statuses) > attack.most:
            breaches.append(f"{len(statuses)} answers: {statuses}")
    return Outcome(attack, statuses, tuple(forwarded), tuple(breaches), seconds)


def _is_cut_off(left: bytes) -> bool:
    """The client never ended its body, so neither could nginx: a whole head, and less than it promised."""
    return b"\r\n\r\n" in left


def _exchange(port: int, sent: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as client:
        with contextlib.suppress(OSError):
            client.sendall(sent)
        deadline = time.monotonic() + WAIT_SECONDS
        client.settimeout(QUIET_SECONDS)
        while time.monotonic() < deadline:
            try:
                piece = client.recv(65536)
            except TimeoutError:
                break
            except OSError:
                break
            if not piece:
                break
            answer += piece
    return answer


# --- the attacks ------------------------------------------------------------------------------------------------------


def attacks(host: str, other: str) -> list[Attack]:
    """All of them, for an app at ``host`` that answers and another at ``other``."""
    h, o = host.encode(), other.encode()
    inner = b"GET /smuggled HTTP/1.1\r\nHost: " + o + b"\r\n\r\n"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)

    def post(*fields: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
        return (
            b"POST /p HTTP/"
            + version
            + b"\r\nHost: "
            + h
            + b"\r\n"
            + b"".join(one + b"\r\n" for one in fields)
            + b"\r\n"
            + body
        )

    def get(*fields: bytes, line: bytes = b"GET /g HTTP/1.1") -> bytes:
        return line + b"\r\nHost: " + h + b"\r\n" + b"".join(one + b"\r\n" for one in fields) + b"\r\n"

    length, te = b"Content-Length: %d", b"Transfer-Encoding: chunked"
    return [
        Attack("CL.TE", post(length % 6, te, body=b"0\r\n\r\nG")),
        Attack("CL.TE with a whole request inside", post(length % len(b"0\r\n\r\n" + inner), te, body=b"0\r\n\r\n" + inner)),
        Attack("TE.CL", post(te, length % 4, body=chunked)),
        Attack("two lengths, different", post(length % 0, length % len(inner), body=inner)),
        Attack("two lengths, equal", post(length % 5, length % 5, body=b"hello")),
        Attack("a list of lengths", post(b"Content-Length: 5, 5", body=b"hello")),
        Attack("a signed length", post(b"Content-Length: +5", body=b"hello")),
        Attack("a negative length", post(b"Content-Length: -1", body=inner)),
        Attack("a hexadecimal length", post(b"Content-Length: 0x5", body=b"hello")),
        Attack("an octal look", post(b"Content-Length: 010", body=b"0123456789"), refused=False),
        Attack("a length too large for any number", post(b"Content-Length: 99999999999999999999999", body=inner)),
        Attack("an empty length", post(b"Content-Length: ", body=inner)),
        Attack("a length with a space inside", post(b"Content-Length: 1 0", body=b"0123456789")),
        Attack("a length before the colon's space", post(b"Content-Length : 5", body=b"hello")),
        Attack("a length after a tab", post(b"Content-Length:\t5", body=b"hello"), refused=False),
        Attack("a folded length", post(b"Content-Length:\r\n 5", body=b"hello")),
        Attack("a folded encoding", post(b"Transfer-Encoding:\r\n chunked", body=chunked)),
        Attack("a folded header", get(b"X-Folded: a\r\n b")),
        Attack("a header that begins with a space", get(b" X-Spaced: a")),
        Attack("two encodings", post(te, te, body=chunked)),
        Attack("two encodings, one unknown", post(te, b"Transfer-Encoding: x", body=chunked)),
        Attack("a list of encodings", post(b"Transfer-Encoding: chunked, identity", body=chunked)),
        Attack("gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", body=chunked)),
        Attack("identity", post(b"Transfer-Encoding: identity", length % 5, body=b"hello")),
        Attack("an encoding with a vertical tab", post(b"Transfer-Encoding: \x0bchunked", body=chunked)),
        Attack("an encoding with a space before the colon", post(b"Transfer-Encoding : chunked", body=chunked)),
        Attack("an encoding in quotes", post(b'Transfer-Encoding: "chunked"', body=chunked)),
        Attack("an encoding with a NUL", post(b"Transfer-Encoding: chunked\0", body=chunked)),
        Attack("an encoding named with an underscore", post(b"Transfer_Encoding: chunked", length % 5, body=b"hello"), refused=False),
        Attack("a length named with an underscore", post(b"Content_Length: 500", length % 5, body=b"hello"), refused=False),
        Attack("upper case encoding", post(b"TRANSFER-ENCODING: CHUNKED", body=chunked), refused=False),
        Attack("an encoding in HTTP/1.0", post(te, body=chunked, version=b"1.0")),
        Attack("chunks: a size that is none", post(te, body=b"zz\r\nhello\r\n0\r\n\r\n")),
        Attack("chunks: a size with 0x", post(te, body=b"0x5\r\nhello\r\n0\r\n\r\n")),
        Attack("chunks: a negative size", post(te, body=b"-5\r\nhello\r\n0\r\n\r\n")),
        Attack("chunks: a size too large", post(te, body=b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n")),
        Attack("chunks: a size that a space follows", post(te, body=b"5 \r\nhello\r\n0\r\n\r\n"), refused=False),
        Attack("chunks: an extension", post(te, body=b"5;a=b\r\nhello\r\n0\r\n\r\n"), refused=False),
        Attack("chunks: an extension with a bare LF", post(te, body=b"5;a\nhello\r\n0\r\n\r\n"), refused=False),
        Attack("chunks: more data than said", post(te, body=b"5\r\nhello!!\r\n0\r\n\r\n")),
        Attack("chunks: trailers", post(te, body=b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: x\r\n\r\n"), refused=False),
        Attack("chunks: a request after the last", post(te, body=b"0\r\n\r\n" + inner), refused=False, most=2),
        Attack("bare LF all through", get().replace(b"\r\n", b"\n"), refused=False),
        Attack("bare LF before a length", b"POST /p HTTP/1.1\r\nHost: " + h + b"\r\nX: y\nContent-Length: 5\r\n\r\nhello", refused=False),
        Attack("bare CR in a header", get(b"X: a\rContent-Length: 5")),
        Attack("bare CR before a header", get(b"\rX: a")),
        Attack("NUL in a header", get(b"X: a\0b")),
        Attack("NUL in a name", get(b"X\0Y: a")),
        Attack("a name with a space", get(b"X Y: a")),
        Attack("a line without a colon", get(b"Transfer-Encoding")),
        Attack("an empty name", get(b": chunked")),
        Attack("two hosts", b"GET / HTTP/1.1\r\nHost: " + h + b"\r\nHost: " + o + b"\r\n\r\n"),
        Attack("no host", b"GET / HTTP/1.1\r\n\r\n"),
        Attack("an empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
        Attack("a host with a path", b"GET / HTTP/1.1\r\nHost: " + h + b"/" + o + b"\r\n\r\n"),
        Attack("a host with a user", b"GET / HTTP/1.1\r\nHost: " + o + b"@" + h + b"\r\n\r\n"),
        Attack("a host with a space", b"GET / HTTP/1.1\r\nHost: " + h + b" " + o + b"\r\n\r\n"),
        Attack("a list of hosts", b"GET / HTTP/1.1\r\nHost: " + h + b", " + o + b"\r\n\r\n"),
        Attack("a host with a bad port", b"GET / HTTP/1.1\r\nHost: " + h + b":x\r\n\r\n"),
        Attack("absolute form, the same host", b"GET http://" + h + b"/a HTTP/1.1\r\nHost: " + h + b"\r\n\r\n", refused=False),
        Attack("absolute form, another host", b"GET http://" + o + b"/a HTTP/1.1\r\nHost: " + h + b"\r\n\r\n"),
        Attack("absolute form, an unknown host", b"GET http://nobody.invalid/a HTTP/1.1\r\nHost: " + h + b"\r\n\r\n"),
        Attack("authority form", b"CONNECT " + o + b":80 HTTP/1.1\r\nHost: " + h + b"\r\n\r\n"),
        Attack("asterisk form", b"OPTIONS * HTTP/1.1\r\nHost: " + h + b"\r\n\r\n", refused=False),
        Attack("a request line with three spaces", get(line=b"GET  /g  HTTP/1.1"), refused=False),
        Attack("a request line with a tab", get(line=b"GET\t/g\tHTTP/1.1")),
        Attack("a request line without a version", b"GET /g\r\n", refused=False),
        Attack("a version that is none", get(line=b"GET /g HTTP/1.1.1")),
        Attack("a version to come", get(line=b"GET /g HTTP/3.0")),
        Attack("a version in lower case", get(line=b"GET /g http/1.1")),
        Attack("a method in lower case", get(line=b"get /g HTTP/1.1")),
        Attack("a URI with a space and a version", get(line=b"GET /g HTTP/1.1 HTTP/1.1"), refused=False),
        Attack("a URI with CR LF escaped", get(line=b"GET /%0d%0aX:y HTTP/1.1"), refused=False),
        Attack("a URI with a NUL escaped", get(line=b"GET /%00 HTTP/1.1"), refused=False),
        Attack("a URI with a raw control character", get(line=b"GET /\x01 HTTP/1.1")),
        Attack("a URI above the root", get(line=b"GET /../../etc/passwd HTTP/1.1")),
        Attack("a URI above the root, escaped", get(line=b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1")),
        Attack("a URI with a fragment", get(line=b"GET /g#frag HTTP/1.1"), refused=False),
        Attack("a URI with a broken escape", get(line=b"GET /%zz HTTP/1.1"), refused=False),
        Attack("a body on GET", get(length % len(inner)) + inner, refused=False),
        Attack("an upgrade to h2c", get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA"), refused=False),
        Attack("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Attack("Connection names a header of the router", get(b"Connection: close, X-Forwarded-For, Host"), refused=False),
        Attack("Expect of something unknown", post(b"Expect: 200-ok", length % 5, body=b"hello"), refused=False),
        Attack("a pipeline of two", get() + get(), refused=False, most=2),
        Attack("an oversize request line", get(line=b"GET /" + b"a" * 70_000 + b" HTTP/1.1")),
        Attack("an oversize header", get(b"X: " + b"a" * 70_000)),
        Attack("an oversize head in many lines", get(*(b"X-%d: %s" % (n, b"a" * 1000) for n in range(400)))),
        Attack("ten thousand headers", get(*(b"X-%d: y" % n for n in range(10_000)))),
        Attack("an oversize cookie", get(b"Cookie: a=" + b"b" * 300_000)),
        Attack("TLS at the wrong port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64),
        Attack("nothing but newlines", b"\r\n" * 1000),
    ]  # fmt: skip
