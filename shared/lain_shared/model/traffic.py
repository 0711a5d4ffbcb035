"""What became of an app's requests, as routers count them: histograms that merge exactly, windows around an operation, the loss report.

A request counts when it ends. ``errors`` are the router's own 5xx (nobody could be reached, or who was gave no answer) and answers that
their backend broke off; ``app_errors`` are 5xx as the app gave them; ``aborted``: the client left before it had its answer. An answer of
unknown length (chunked) that its backend breaks off is not seen as broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EXACT_MS = 16
PER_DOUBLING = 8
MAX_MS = (1 << 20) - 1


def bucket_of(ms: int) -> int:
    """The bucket of a latency in whole milliseconds, as ``deploy/nginx/lua/lain/traffic.lua`` has it."""
    shift = max(min(ms, MAX_MS).bit_length() - EXACT_MS.bit_length() + 1, 0)
    return shift * PER_DOUBLING + (min(ms, MAX_MS) >> shift)


def middle_ms(bucket: int) -> float:
    """The middle of a bucket: within 6.25 % of every latency in it."""
    shift = max(bucket // PER_DOUBLING - 1, 0)
    first = (bucket - shift * PER_DOUBLING) << shift
    return first + ((1 << shift) - 1) / 2


def quantile_ms(latency: Mapping[int, int], share: float) -> float | None:
    """The latency that ``share`` of the requests did not exceed (nearest rank); None without requests."""
    total = sum(latency.values())
    seen = 0
    for bucket in sorted(latency):
        seen += latency[bucket]
        if seen >= share * total and seen:
            return middle_ms(bucket)
    return None


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests that ended. ``latency``: bucket → requests, WebSockets left out."""

    requests: int = 0
    errors: int = 0
    app_errors: int = 0
    aborted: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        """Both together, exactly."""
        latency = dict(self.latency)
        for bucket, count in other.latency.items():
            latency[bucket] = latency.get(bucket, 0) + count
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.app_errors + other.app_errors,
            self.aborted + other.aborted,
            latency,
        )

    def __sub__(self, earlier: Counts) -> Counts:
        """What came since ``earlier``, of counts that only grow."""
        grown = {
            bucket: more
            for bucket, count in self.latency.items()
            if (more := count - earlier.latency.get(bucket, 0)) > 0
        }
        return Counts(
            self.requests - earlier.requests,
            self.errors - earlier.errors,
            self.app_errors - earlier.app_errors,
            self.aborted - earlier.aborted,
            grown,
        )


@dataclass(frozen=True, slots=True)
class OperationMark:
    """``operation-marks/<app>``: that an operation runs, which, and since when. All that routers learn of it."""

    operation: str
    app: str
    started_at: float


@dataclass(frozen=True, slots=True)
class TrafficWindow:
    """What one router counted of one app from ``since`` to ``until``."""

    since: float
    until: float
    counts: Counts = field(default_factory=Counts)
    complete: bool = True
    why: str = ""
    """Why it is not complete: which counts are missing."""


@dataclass(frozen=True, slots=True)
class OperationTraffic:
    """One operation as one router saw it. ``during`` is open until ``after`` is there, ``after`` until ``final``."""

    operation: str
    before: TrafficWindow
    during: TrafficWindow
    after: TrafficWindow | None = None
    final: bool = False


@dataclass(frozen=True, slots=True)
class ProcTraffic:
    """The counts of one proc since nginx's boot. ``slots``: they go on from earlier ones only if all of those slots are among these."""

    slots: tuple[int, ...] = ()
    requests: int = 0
    errors: int = 0
    app_errors: int = 0
    aborted: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)

    @property
    def counts(self) -> Counts:
        return Counts(self.requests, self.errors, self.app_errors, self.aborted, self.latency)


@dataclass(frozen=True, slots=True)
class TrafficMark:
    """How far a router's counts are in its record: the next watcher goes on from here."""

    boot_id: str
    at: float
    uncounted: int = 0
    procs: Mapping[str, ProcTraffic] = field(default_factory=dict)
    """``app/proc`` → its counts."""


@dataclass(frozen=True, slots=True)
class RouterTraffic:
    """``traffic/<router>/<app>`` (leased): the app's latest operations as this router saw them, the newest last."""

    router: str
    app: str
    reports: tuple[OperationTraffic, ...] = ()
    mark: TrafficMark | None = None
    """While a report is open."""


@dataclass(frozen=True, slots=True)
class LossWindow:
    """A stretch of a loss report: all routers together. Latencies are within 6.25 % (None: no request)."""

    since: float
    until: float
    requests: int = 0
    errors: int = 0
    app_errors: int = 0
    aborted: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class LossReport:
    """What an operation cost the app's visitors: the minute before it, the operation itself, the minute after it.

    ``before`` and ``after`` are shorter where another operation of the app was closer.
    """

    before: LossWindow
    during: LossWindow
    after: LossWindow | None = None
    final: bool = False
    """No number in it changes any more."""
    complete: bool = True
    """Every request that ended in these windows is counted."""
    why: str = ""
    """Why it is not complete."""
    routers: tuple[str, ...] = ()
    """Whose counts these are."""
