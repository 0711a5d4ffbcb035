"""Liveness: a loop that rests is alive, one whose pass does not end is not."""

from __future__ import annotations

import asyncio
import time

import pytest

from lain_shared import daemon
from lain_shared.daemon import STUCK_SECONDS, Health
from lain_shared.loop import Loop
from lain_shared.testing import eventually


class Later:
    """A clock that is ahead."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._seconds


async def test_a_loop_that_rests_for_an_hour_is_alive_and_one_that_hangs_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hang = asyncio.Event()
    began = 0

    async def one_pass() -> None:
        nonlocal began
        began += 1
        if began > 1:
            await hang.wait()

    loop = Loop("hourly", one_pass, resync_seconds=3600.0)
    health = Health([loop])
    running = asyncio.create_task(loop.run())
    try:
        await eventually(lambda: loop.last_ended is not None)
        monkeypatch.setattr(daemon, "time", Later(3 * STUCK_SECONDS))
        assert health.not_live() == {}
        loop.wake()
        await eventually(lambda: began == 2)
        assert set(health.not_live()) == {"hourly"}
    finally:
        hang.set()
        loop.stop()
        await running


def test_a_loop_that_never_began_a_pass_is_not_alive_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    health = Health([Loop("never", lambda: asyncio.sleep(0))])
    assert health.not_live() == {}
    monkeypatch.setattr(daemon, "time", Later(STUCK_SECONDS + 1))
    assert set(health.not_live()) == {"never"}
