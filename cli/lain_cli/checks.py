"""Everything that ``lainctl doctor`` checks, in the order in which one would look: this machine, then the cluster."""

from __future__ import annotations

import asyncio

from lain_cli.context import Run
from lain_cli.doctor.here import look_here
from lain_cli.doctor.report import PROBLEM, Check, skipped
from lain_shared.errors import LainError


def run_checks(run: Run, *, offline: bool) -> tuple[Check, ...]:
    """Every check; seconds at most, whatever is away. ``offline``: this machine only."""
    here = look_here(run)
    if offline:
        return here
    if here[-1].state == PROBLEM:
        return (*here, skipped("cluster", "no phase to ask"))
    from lain_cli.doctor.judge import judge  # noqa: PLC0415 - the cluster's clients are slow to import
    from lain_cli.doctor.sight import look  # noqa: PLC0415

    try:
        return (*here, *judge(asyncio.run(look(run))))
    except LainError as error:  # the phase itself cannot be used: its CA is not there, an address makes no sense
        return (*here, Check("cluster", PROBLEM, error.message, error.error_code, error.why, next=error.next))


__all__ = ["Check", "run_checks"]
