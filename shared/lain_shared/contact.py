"""One HTTP question to somebody, and all that the attempt tells: whether they are there, their time, how long their certificate holds.

For those who look for faults (the agent, ``lainctl doctor``): nothing here raises for one that does not answer.

Time is the ``Date`` of the answer (RFC 9110 §6.6.1): whole seconds, and it took some time to come. So each answer only *bounds* how far
two clocks are apart, and what most answers agree on is believed (``apart``: Marzullo's algorithm, as NTP selects its servers).
"""

from __future__ import annotations

import asyncio
import email.utils
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 4.0
MOST_HEAD_BYTES = 16_384
MOST_BODY_BYTES = 65_536
CLOSED = "the connection was closed at once: nothing answers behind that port"


class Reached(StrEnum):
    """How far an attempt came."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """The machine is there; nothing listens on that port, or what forwards it found nothing behind it."""
    UNREACHABLE = "unreachable"
    """No machine answered at that address, or its name is not known."""
    SILENT = "silent"
    """The connection was taken and nothing came: who should answer hangs, is paused or overloaded."""
    CERTIFICATE = "certificate"
    """Its certificate is not accepted."""
    GARBLED = "garbled"
    """It speaks something else, or does not accept our certificate."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whom to ask what. ``of``: what it is to us; ``address``: ``host:port``."""

    of: str
    address: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """One answer that carried its server's time. ``told``: its ``Date``, whole seconds; the rest by our clock."""

    of: str
    sent: float
    received: float
    told: float


@dataclass(frozen=True, slots=True)
class Certificate:
    """When a certificate holds, in seconds since the epoch."""

    of: str
    not_before: float
    not_after: float


@dataclass(frozen=True, slots=True)
class Contact:
    """How an attempt ended. ``status`` 0: not with an HTTP answer, and ``error`` says why."""

    of: str
    address: str
    reached: Reached = Reached.ANSWERED
    status: int = 0
    error: str = ""
    body: bytes = field(default=b"", repr=False)
    reading: ClockReading | None = None
    certificate: Certificate | None = None


async def ask(
    question: Question, tls: ssl.SSLContext | None, *, body: bool = False, clock: Callable[[], float] = time.time
) -> Contact:
    """One request on a connection of its own. ``body``: read the answer's body too, the first ``MOST_BODY_BYTES`` of it."""

    def ended(reached: Reached, error: str) -> Contact:
        return Contact(question.of, question.address, reached, error=error)

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            host, port = _split(question.address)
            reader, writer = await asyncio.open_connection(host, port, limit=MOST_HEAD_BYTES)
    except TimeoutError:
        return ended(Reached.UNREACHABLE, f"no connection within {CONNECT_SECONDS:g} s")
    except ConnectionRefusedError:
        return ended(Reached.REFUSED, "connection refused: nothing listens there")
    except (OSError, ValueError) as error:
        return ended(Reached.UNREACHABLE, _words(error))
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            if tls is not None:
                await writer.start_tls(tls, server_hostname=host)
            return await _talk(question, reader, writer, body, clock)
    except ssl.SSLCertVerificationError as error:
        return ended(Reached.CERTIFICATE, f"its certificate: {error.verify_message}")
    except TimeoutError:
        return ended(Reached.SILENT, f"it took the connection and said nothing for {ANSWER_SECONDS:g} s")
    except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
        return ended(Reached.REFUSED, CLOSED)
    except asyncio.IncompleteReadError as error:
        return (
            ended(Reached.GARBLED, f"no HTTP answer: {_words(error)}")
            if error.partial
            else ended(Reached.REFUSED, CLOSED)
        )
    except ssl.SSLError as error:
        return ended(Reached.GARBLED, f"TLS: {error.reason or error}")
    except (OSError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
        return ended(Reached.GARBLED, f"no HTTP answer: {_words(error)}")
    finally:
        writer.transport.abort()


async def _talk(
    question: Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bool, clock: Callable[[], float]
) -> Contact:  # fmt: skip
    shown = writer.get_extra_info("peercert") or {}
    lines = [f"GET {question.path} HTTP/1.1", *([] if "Host" in question.headers else [f"Host: {question.address}"])]
    lines += [
        "Connection: close",
        "User-Agent: lain",
        *(f"{name}: {value}" for name, value in question.headers.items()),
    ]
    sent = clock()
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    received = clock()
    who = f"{question.of} at {question.address}"
    date = next((line.partition(":")[2].strip() for line in head.split("\r\n") if line.lower().startswith("date:")), "")
    told = email.utils.parsedate_to_datetime(date).timestamp() if date else None
    return Contact(
        question.of,
        question.address,
        Reached.ANSWERED,
        int(head.split(None, 2)[1]),
        body=await reader.read(MOST_BODY_BYTES) if body else b"",
        reading=None if told is None else ClockReading(who, sent, received, told),
        certificate=_dates(who, shown),
    )


def _dates(who: str, shown: Mapping[str, object]) -> Certificate | None:
    if not shown:
        return None
    begins, ends = (float(ssl.cert_time_to_seconds(str(shown[name]))) for name in ("notBefore", "notAfter"))
    return Certificate(f"the certificate of {who}", begins, ends)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__


def apart(readings: Sequence[ClockReading]) -> tuple[float, float, int]:
    """By how much our clock is ahead of theirs, at least and at most, and how many of them agree on that.

    An answer asked for at ``sent`` and here at ``received`` says that in between its server's clock stood in [told, told + 1): ours is
    ahead of it by more than ``sent - told - 1`` and less than ``received - told``.
    """
    bounds = [(one.sent - one.told - 1.0, one.received - one.told) for one in readings]
    edges = sorted([(low, -1) for low, _ in bounds] + [(high, 1) for _, high in bounds])
    best, inside, found = 0, 0, (0.0, 0.0)
    for index, (at, kind) in enumerate(edges):
        inside -= kind
        if inside > best:
            best, found = inside, (at, edges[index + 1][0])
    return *found, best
