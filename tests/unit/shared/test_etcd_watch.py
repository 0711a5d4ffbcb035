"""When a watch asks for a sign of life: when its connection is silent, seldom when only the watch is; and when it is given up."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from lain_shared import etcd_watch
from lain_shared.etcd_channel import Lost, Member

PROGRESS, STREAM, ANSWER = 0.02, 0.2, 0.05


class Call:
    """A stream whose first answer comes at once, and no other."""

    def __init__(self) -> None:
        self.asked_at: list[float] = []
        self._answers = 1

    async def read(self) -> object:
        if self._answers:
            self._answers -= 1
            return object()
        await asyncio.Event().wait()
        raise AssertionError

    async def write(self, _request: object) -> None:
        self.asked_at.append(asyncio.get_running_loop().time())


class Talkative:
    """A member; ``alive``: another call on its connection is answered at any time."""

    connection = 1

    def __init__(self, *, alive: bool) -> None:
        self.alive = alive

    def heard_on(self, connection: int) -> float:
        assert connection == 1
        return asyncio.get_running_loop().time() if self.alive else -math.inf


async def given_up(member: Any) -> tuple[float, float]:
    """Seconds from the last answer until it asked, and from then until it gave up."""
    call, loop = Call(), asyncio.get_running_loop()
    answers = etcd_watch._answers(call, member, progress_seconds=PROGRESS, stream_seconds=STREAM, answer_seconds=ANSWER)
    await anext(answers)
    heard = loop.time()
    with pytest.raises(Lost, match="silent"):
        await anext(answers)
    (asked,) = call.asked_at
    return asked - heard, loop.time() - asked


async def test_a_silent_connection_is_asked_soon_and_given_up() -> None:
    asked, waited = await given_up(Talkative(alive=False))
    assert asked >= PROGRESS
    assert waited >= ANSWER


async def test_a_watch_that_alone_is_silent_is_asked_seldom_and_given_up_all_the_same() -> None:
    asked, waited = await given_up(Talkative(alive=True))
    assert asked >= STREAM
    assert waited >= ANSWER


async def test_what_is_heard_on_a_new_connection_says_nothing_of_the_old_one() -> None:
    member = Member("127.0.0.1:1", None)
    before = member.connection
    assert member.heard_on(before) > -math.inf
    member._open()
    assert member.heard_on(before) == -math.inf
    assert member.heard_on(member.connection) > -math.inf
