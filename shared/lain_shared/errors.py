"""The few kinds of failure a caller can act on, and the one shape in which every LAIN API, log and command tells them.

Every error says *what* happened, *why*, on which *evidence*, and what to do *next*. ``code`` is stable and machine-readable;
everything else is for people. HTTP statuses and exit codes are derived from the *kind*, in one place each
(``http_server.py``, ``lain_cli``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class LainError(Exception):
    """A failure that LAIN understood.

    ``message``: what, in one sentence. ``why``: the cause, when it is known. ``evidence``: facts, JSON-able (never a secret).
    ``next``: the next command or step. ``retry_seconds``: when trying again makes sense, else None.
    """

    code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        why: str = "",
        next: str = "",
        evidence: Mapping[str, Any] | None = None,
        code: str | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.why = why
        self.next = next
        self.evidence: dict[str, Any] = dict(evidence or {})
        self.error_code = code or type(self).code
        self.retry_seconds = retry_seconds

    def to_document(self) -> dict[str, Any]:
        """The JSON body of this error: ``{"error": {"code","message","why","evidence","next","retry_seconds"}}``."""
        return {
            "error": {
                "code": self.error_code,
                "message": self.message,
                "why": self.why,
                "evidence": self.evidence,
                "next": self.next,
                "retry_seconds": self.retry_seconds,
            }
        }


class Invalid(LainError):
    """The request itself is wrong; sending it again unchanged cannot succeed."""

    code = "invalid"


class Unauthenticated(LainError):
    """Nobody proved who they are."""

    code = "unauthenticated"


class Denied(LainError):
    """Somebody known may not do this."""

    code = "denied"


class NotFound(LainError):
    """What was named does not exist."""

    code = "not_found"


class Conflict(LainError):
    """The world is not as the request expected: it changed, is taken, or is busy."""

    code = "conflict"


class Refused(LainError):
    """A plan was judged and refused; nothing was changed."""

    code = "refused"


class Unavailable(LainError):
    """Something needed is away; trying again later can succeed."""

    code = "unavailable"


class Uncertain(Unavailable):
    """A write was sent and its fate is unknown: read again before deciding."""

    code = "uncertain"


class Compacted(LainError):
    """The store no longer has the history asked for: list again and watch from there."""

    code = "compacted"


class LeaseLost(Unavailable):
    """A lease expired or could not be renewed in time: what it stood for is no longer ours."""

    code = "lease_lost"
