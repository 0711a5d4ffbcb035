"""Load on an app while things are done to the cluster: what failed meanwhile, how long the slowest took, beside the quiet before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.report import Case, Proof
from bench.stage.load import Load, Window

SETTLE_SECONDS = 5.0
BEFORE_SLICES = 4
SLOWER_AT_MOST = 3.0


@dataclass(frozen=True, slots=True)
class Span:
    """Something that was done, and when (unix seconds)."""

    what: str
    began: float
    ended: float


@dataclass(slots=True)
class Rush:
    """``doing`` notes what is done when; ``judge``, once the load has ended, holds each against the quiet before."""

    proof: Proof
    load: Load
    spans: list[Span] = field(default_factory=list)
    before: list[Span] = field(default_factory=list)

    def quiet(self, seconds: float) -> None:
        """Load alone, for that long: what "before" is."""
        time.sleep(SETTLE_SECONDS)
        for _ in range(BEFORE_SLICES):
            began = time.time()
            time.sleep(seconds / BEFORE_SLICES)
            self.before.append(Span("before", began, time.time()))

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Whatever is due until the block ends counts as during ``what``."""
        began = time.time()
        yield
        self.spans.append(Span(what, began, time.time()))

    def judge(self, *, tolerated: Sequence[str] = ()) -> None:
        """A case for each thing done: p99 of each time it was, the quiet before beside it, and what failed. ``tolerated``: whose failures
        are judged elsewhere."""
        self.load.end()
        before = [self._window(span) for span in self.before]
        quiet = sum(len(window.failures) for window in before)
        base = Window(tuple(sample for window in before for sample in window.samples))
        for what in dict.fromkeys(span.what for span in self.spans):
            case = self.proof.case(f"{what}: p99", "ms")
            case.add("before", *(window.milliseconds() for window in before))
            windows = [self._window(span) for span in self.spans if span.what == what]
            case.add("lain", *(window.milliseconds() for window in windows))
            during = Window(tuple(sample for window in windows for sample in window.samples))
            case.note(f"{during.requests} requests, it was done {len(windows)} times")
            if what not in tolerated:
                _failures(case, during)
            case.target("p99 during ÷ p99 before", during.milliseconds() / base.milliseconds(), at_most=SLOWER_AT_MOST)
        case = self.proof.case("before: failed requests")
        case.add("lain", quiet)
        case.target("failed requests before anything was done", quiet, at_most=0)

    def window(self, what: str) -> Window:
        """All that was due during ``what``; once the load has ended."""
        return Window(
            tuple(sample for span in self.spans if span.what == what for sample in self._window(span).samples)
        )

    def _window(self, span: Span) -> Window:
        return self.load.window(span.began, span.ended)


def _failures(case: Case, window: Window) -> None:
    case.target("failed requests", len(window.failures), at_most=0)
    case.target("of them reset or cut off", sum(not one.outcome.isdigit() for one in window.failures), at_most=0)
    for line in window.named():
        case.note(line)


def judge_gap(case: Case, load: Load, span: Span, *, at_most: float) -> Window:
    """From the first failed request of ``span`` to the last: ``at_most`` seconds. Of a load that had ended no failure would be seen."""
    load.end()
    window = load.window(span.began, span.ended)
    failed = [sample.due for sample in window.failures]
    gap = max(failed) - min(failed) if failed else 0.0
    case.add("lain", gap)
    case.target("gap", gap, at_most=at_most)
    case.target("requests", window.requests, at_least=0.95 * load.rate * (span.ended - span.began))
    case.notes.extend(window.named(5))
    return window
