"""Talking to the members of an etcd cluster: which member, how long, when to try again, and what a failure means.

One channel per member, used in turn; one that failed is asked last for a while. Every call has a deadline. Reads are repeated; a write only
when it was refused before it was accepted, otherwise it is ``Uncertain``. A permission error is ``Denied``, at once and for good.
"""

from __future__ import annotations

import asyncio
import math
import random
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lain_shared import etcd_proto
from lain_shared.errors import (
    Compacted,
    Conflict,
    Denied,
    Invalid,
    LainError,
    LeaseLost,
    NotFound,
    Unauthenticated,
    Unavailable,
    Uncertain,
)
from lain_shared.etcd_grpc import grpc

OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # in truth how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.service_config_disable_resolution", 1),
)
REQUIRE_LEADER = (("hasleader", "true"),)
"""A member that is cut off from its leader says so, instead of answering from the past or not at all."""
ATTEMPT_SECONDS = 2.0
"""How long one member may take to answer a read before the next is asked."""
LEAST_ATTEMPT_SECONDS = 0.2
"""With less time left no attempt is begun: its deadline could pass before it is even refused, and a write would seem uncertain."""
KNOWN_AWAY_SECONDS = 1.0
"""Once nobody has answered for a whole deadline, a call gives up after so long: gRPC tries to connect that often."""
CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 6.0
"""A connection that gave no answer for so long, though it was asked, is replaced."""
RETIRED_SECONDS = 60.0
"""After so long no call waits on a replaced connection: every one has a deadline, every watch asks for a sign of life."""
SILENT_PENALTY_SECONDS = 5.0
REFUSED_PENALTY_SECONDS = 1.0

_REFUSED = (
    "failed to connect",
    "connection refused",
    "no leader",
    "too many requests",
    "revision of auth store is old",
    "not supported for learner",
    "etcdserver: not capable",
)
"""What gRPC or etcd say when a request was turned away before anything could come of it."""


class Refused(Exception):
    """The member turned the request away before accepting it: any request may be sent again."""


class Lost(Exception):
    """The member did not answer, or not to the end: a write may or may not have been applied."""


class Member:
    """One endpoint and the channel to it.

    A connection on which nothing was heard for ``SILENCE_SECONDS``, though something was asked, is replaced by a new one: one that hangs
    would keep gRPC waiting for half a minute. What still waits on the old one ends by its own deadline.
    """

    def __init__(self, endpoint: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.endpoint = endpoint
        self.avoid_until = 0.0
        self._credentials = credentials
        self._retired: list[tuple[float, grpc.aio.Channel]] = []
        self.connection = 0
        """Another number each time it is replaced."""
        self._open()

    def _open(self) -> None:
        target = f"dns:///{self.endpoint}"
        if self._credentials is None:
            self._channel = grpc.aio.insecure_channel(target, options=OPTIONS)
        else:
            self._channel = grpc.aio.secure_channel(target, self._credentials, options=OPTIONS)
        self._callables: dict[str, Any] = {}
        self.connection += 1
        self.heard()

    async def close(self) -> None:
        for _, channel in (*self._retired, (0.0, self._channel)):
            await channel.close()

    def heard(self) -> None:
        """The member answered something."""
        self._heard_at = asyncio.get_running_loop().time()

    def heard_on(self, connection: int) -> float:
        """When (the event loop's time) something was last heard on that connection; long ago if it has been replaced."""
        return self._heard_at if connection == self.connection else -math.inf

    async def call(self, method: str, request: Any, seconds: float) -> Any:
        """One unary attempt. Raises ``Refused``, ``Lost`` or the final ``LainError``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        try:
            await self.connect(min(seconds, CONNECT_SECONDS))
            stub = self._callables.get(method) or self._unary(method, type(request))
            answer = await stub(request, timeout=max(deadline - loop.time(), 0.001), metadata=REQUIRE_LEADER)
        except (grpc.aio.AioRpcError, Refused) as error:
            fault = error if isinstance(error, Refused) else fault_of(error)
            if isinstance(fault, LainError):
                self.heard()
            else:
                self.avoid(fault)
            raise fault from error
        self.heard()
        return answer

    def stream(self, method: str, request: str, response: str, seconds: float | None = None) -> Any:
        """Open a stream of ``request`` messages one way and ``response`` messages the other."""
        stub = self._callables.get(method)
        if stub is None:
            stub = self._callables[method] = self._channel.stream_stream(
                method,
                request_serializer=getattr(etcd_proto, request).SerializeToString,
                response_deserializer=getattr(etcd_proto, response).FromString,
            )
        return stub(timeout=seconds, metadata=REQUIRE_LEADER)

    async def connect(self, seconds: float) -> None:
        """Return when connected, or known not to be (the call then says why); ``Refused`` when it is still trying after ``seconds``."""
        if self._retired:
            await self._close_retired()
        states = grpc.ChannelConnectivity
        state = self._channel.get_state(try_to_connect=True)
        if state is states.READY:
            return
        try:
            async with asyncio.timeout(seconds):
                while state in (states.IDLE, states.CONNECTING):
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise Refused(f"no connection to {self.endpoint} within {seconds:g} s") from None

    def avoid(self, fault: Exception) -> None:
        """Ask this member last for a while; and over a new connection, if the present one seems to hang."""
        now = asyncio.get_running_loop().time()
        self.avoid_until = now + (REFUSED_PENALTY_SECONDS if isinstance(fault, Refused) else SILENT_PENALTY_SECONDS)
        if isinstance(fault, Lost) and now - self._heard_at >= SILENCE_SECONDS:
            self._retired.append((now, self._channel))
            self._open()

    async def _close_retired(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._retired and now - self._retired[0][0] >= RETIRED_SECONDS:
            _, channel = self._retired.pop(0)
            await channel.close()

    def _unary(self, method: str, request: Any) -> Any:
        answer = getattr(etcd_proto, request.__name__.removesuffix("Request") + "Response")
        stub = self._channel.unary_unary(
            method, request_serializer=request.SerializeToString, response_deserializer=answer.FromString
        )
        self._callables[method] = stub
        return stub


class Members:
    """All members of one cluster. Use as an async context manager."""

    def __init__(self, endpoints: Sequence[str], *, tls_dir: Path | None, timeout_seconds: float) -> None:
        if not endpoints:
            raise Invalid("no etcd endpoint is configured", next="name at least one host:port")
        self.timeout_seconds = timeout_seconds
        self._members: list[Member] = []
        self._endpoints = tuple(endpoints)
        self._credentials = None if tls_dir is None else read_credentials(tls_dir)
        self._turn = random.randrange(len(self._endpoints))  # noqa: S311 - spreads clients over members
        self._away_since: float | None = None
        """Since when nobody answered; None: the last call was answered."""

    async def __aenter__(self) -> Members:
        self._members = [Member(endpoint, self._credentials) for endpoint in self._endpoints]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for member in self._members:
            await member.close()

    @property
    def where(self) -> str:
        return f"etcd at {', '.join(self._endpoints)}"

    def each(self) -> tuple[Member, ...]:
        """Every member, in the order in which they were named."""
        return tuple(self._members)

    def pick(self) -> Member:
        """The next member in turn that did not fail lately; when all did, the one that may be asked again first."""
        self._turn += 1
        count = len(self._members)
        now = asyncio.get_running_loop().time()
        turn = [self._members[(self._turn + offset) % count] for offset in range(count)]
        return next(
            (member for member in turn if member.avoid_until <= now), min(turn, key=lambda one: one.avoid_until)
        )

    async def read(self, method: str, request: Any) -> Any:
        """Ask until somebody answers or the deadline passed (``Unavailable``)."""
        return await self._call(method, request, repeatable=True)

    async def write(self, method: str, request: Any) -> Any:
        """Ask once for good: again only if refused. ``Uncertain`` when the answer was lost, ``Unavailable`` when nobody took it."""
        return await self._call(method, request, repeatable=False)

    async def _call(self, method: str, request: Any, *, repeatable: bool) -> Any:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self.timeout_seconds
        attempts = 0
        while True:
            remaining = deadline - loop.time()
            try:
                answer = await self._attempt(
                    method, request, min(remaining, ATTEMPT_SECONDS) if repeatable else remaining
                )
            except Lost as fault:
                if not repeatable:
                    raise Uncertain(
                        f"a write to {self.where} was sent and its fate is unknown",
                        why=str(fault),
                        next="look whether it was done, then try again; if it lasts: lainctl doctor",
                        retry_seconds=1.0,
                    ) from fault
                last: Exception = fault
            except Refused as fault:
                last = fault
            else:
                return answer
            attempts += 1
            pause = pause_after(attempts // len(self._members)) if attempts % len(self._members) == 0 else 0.0
            patience_ends = (
                began + KNOWN_AWAY_SECONDS if self._known_away and attempts >= len(self._members) else deadline
            )
            if loop.time() + pause + LEAST_ATTEMPT_SECONDS >= patience_ends:
                raise self.unavailable(last) from last
            await asyncio.sleep(pause)

    async def _attempt(self, method: str, request: Any, seconds: float) -> Any:
        """Ask the member whose turn it is, and remember whether anybody answers at all."""
        try:
            answer = await self.pick().call(method, request, seconds)
        except LainError:
            self._away_since = None
            raise
        except (Lost, Refused):
            if self._away_since is None:
                self._away_since = asyncio.get_running_loop().time()
            raise
        self._away_since = None
        return answer

    @property
    def _known_away(self) -> bool:
        """Nobody answered for so long that waiting for a new leader or a restart has had its time."""
        since = self._away_since
        return since is not None and asyncio.get_running_loop().time() - since >= self.timeout_seconds

    def unavailable(self, cause: Exception) -> Unavailable:
        """Nobody answered, and why the last one did not."""
        return Unavailable(
            f"{self.where} does not answer",
            why=str(cause),
            next=_next_step(str(cause), tls=self._credentials is not None),
            retry_seconds=1.0,
            code="etcd_away",
        )


def _next_step(said: str, *, tls: bool) -> str:
    if tls and any(sign in said for sign in ("TSI_", "SSL_ERROR", "certificate")):
        return "check that ca.pem, cert.pem and key.pem come from this cluster's authority and are in date"
    if not tls and "Socket closed" in said:
        return "this etcd may speak TLS only: configure the certificate folder"
    return "lainctl doctor"


def pause_after(failures: int) -> float:
    """Seconds to wait after this many failures in a row: jittered, doubling, at most 1."""
    return float(min(0.02 * 2.0 ** min(failures, 10), 1.0)) * (0.5 + random.random() / 2)  # noqa: S311 - jitter


def read_credentials(tls_dir: Path) -> grpc.ChannelCredentials:
    """mTLS by ``ca.pem``, ``cert.pem`` and ``key.pem`` of a folder; ``Invalid`` names a file that cannot be used."""
    parts: dict[str, bytes] = {}
    for name in ("ca.pem", "cert.pem", "key.pem"):
        try:
            parts[name] = (tls_dir / name).read_bytes()
        except OSError as error:
            raise Invalid(f"{tls_dir / name} cannot be read", why=error.strerror or str(error)) from error
    try:  # gRPC would only say "connection failed", later
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(tls_dir / "ca.pem")
        context.load_cert_chain(tls_dir / "cert.pem", tls_dir / "key.pem")
    except ssl.SSLError as error:
        raise Invalid(f"the certificate files in {tls_dir} do not fit together", why=str(error)) from error
    return grpc.ssl_channel_credentials(parts["ca.pem"], parts["key.pem"], parts["cert.pem"])


def fault_of(error: grpc.aio.AioRpcError) -> LainError | Refused | Lost:
    """What a gRPC error means: final for the caller (a ``LainError``), or for this attempt only (``Refused``, ``Lost``)."""
    code, details = error.code(), error.details() or ""
    return fault_from(code, details)


def fault_from(code: grpc.StatusCode, details: str) -> LainError | Refused | Lost:
    """As ``fault_of``, from the status code and etcd's own words."""
    status = grpc.StatusCode
    said = details.lower()
    if any(text in said for text in _REFUSED):
        return Refused(details)
    if code is status.PERMISSION_DENIED or "permission denied" in said:
        return Denied("etcd does not let this user touch that key", why=details)
    if code is status.UNAUTHENTICATED or "user name is empty" in said:
        return Unauthenticated("etcd does not know who this is", why=details, next="check the client certificate")
    if "certificate required" in said or "bad certificate" in said or "unknown certificate authority" in said:
        return Unauthenticated("etcd does not accept this client's certificate", why=details)
    if "compacted" in said or "future revision" in said:
        return Compacted("etcd no longer has the revision asked for", why=details)
    if "message larger than max" in said:  # etcd's own words for a little less are "request is too large"
        return Invalid("this is more than etcd takes in one request", why=details, code="etcd_refused")
    if "lease not found" in said:
        return LeaseLost("the lease is gone", why=details)
    if "space exceeded" in said:
        return Unavailable(
            "etcd is full and takes no writes",
            why=details,
            next="compact, defragment and disarm the alarm",
            code="etcd_full",
        )
    final: dict[grpc.StatusCode, type[LainError]] = {
        status.INVALID_ARGUMENT: Invalid,
        status.NOT_FOUND: NotFound,
        status.ALREADY_EXISTS: Conflict,
        status.FAILED_PRECONDITION: Conflict,
        status.UNIMPLEMENTED: Unavailable,
    }
    if code in final:
        return final[code](f"etcd refused the request: {details}", why=details, code="etcd_refused")
    return Lost(f"{code.name} {details}")
