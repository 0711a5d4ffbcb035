"""Waiting for a condition, with a deadline: the one way in which a test waits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from lain_shared.errors import LainError

T = TypeVar("T")


@overload
async def eventually(
    predicate: Callable[[], Awaitable[T | None]],
    timeout_seconds: float = 10.0,
    what: str = "",
    *,
    interval_seconds: float = 0.01,
) -> T: ...
@overload
async def eventually(
    predicate: Callable[[], T | None], timeout_seconds: float = 10.0, what: str = "", *, interval_seconds: float = 0.01
) -> T: ...
async def eventually(
    predicate: Callable[[], Any], timeout_seconds: float = 10.0, what: str = "", *, interval_seconds: float = 0.01
) -> Any:
    """The first true value of ``predicate`` (sync or async), asked every ``interval_seconds``.

    An ``AssertionError`` or ``LainError`` counts as "not yet". After ``timeout_seconds`` raises ``AssertionError`` that says ``what``
    was waited for and what was seen last.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        seen: object
        cause: Exception | None = None
        try:
            answer = predicate()
            value = await answer if inspect.isawaitable(answer) else answer
        except (AssertionError, LainError) as error:
            seen, cause = error, error
        else:
            if value:
                return value
            seen = value
        if loop.time() >= deadline:
            raise AssertionError(
                f"not within {timeout_seconds:g} s: {what or repr(predicate)}; last seen: {seen!r}"
            ) from cause
        await asyncio.sleep(interval_seconds)
