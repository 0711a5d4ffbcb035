"""Time that a test moves by hand: code that takes a ``clock`` or ``now`` is given one of these."""

from __future__ import annotations


class ManualClock:
    """Seconds that pass only when told to. Call it for the time: ``ManualClock(100.0)() == 100.0``."""

    def __init__(self, now: float = 1_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass; returns the new time. ``ValueError`` when asked to go back."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._now += seconds
        return self._now
