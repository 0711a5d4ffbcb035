"""``lainctl doctor``: what is wrong, the worst first: what, why, what shows it, and the next command."""

from __future__ import annotations

from collections.abc import Sequence

import click

from lain_cli import failures
from lain_cli.checks import Check, run_checks
from lain_cli.context import Run
from lain_cli.doctor.report import OK, PROBLEM, SKIPPED, WARNING
from lain_cli.options import command
from lain_cli.render import Cell, Screen, columns, count

_STYLES = {OK: "good", WARNING: "warn", PROBLEM: "bad", SKIPPED: "dim"}
_ORDER = (PROBLEM, WARNING)


@command("doctor", examples=("lainctl doctor", "lainctl doctor -p prod -o json", "lainctl doctor --offline"))
@click.option("--offline", is_flag=True, help="Check this machine only.")
def doctor(run: Run, offline: bool) -> int:
    """Say what is wrong with the cluster and this machine, why it matters, what shows it, and the next command.

    It looks at etcd, console, controller, nodes (Docker, disk, memory, clock, network, certificates), routers, registry, switches, apps,
    and your token. What a node says of itself is at most half a minute old. Exit code 1 on a problem.
    """
    checks = run_checks(run, offline=offline)
    bad = sorted((one for one in checks if one.bad), key=lambda one: _ORDER.index(one.state))
    problems = sum(one.state == PROBLEM for one in bad)

    def pretty(screen: Screen) -> None:
        if bad:
            screen.line(_headline(problems, len(bad) - problems), _STYLES[bad[0].state])
        for one in bad:
            _tell(screen, one)
        rest = [one for one in checks if not one.bad]
        if bad and rest:
            screen.line()
        _table(screen, rest)
        if not bad:
            screen.line()
            screen.line("nothing is wrong that can be seen from here", "good")

    run.show({"ok": not problems, "checks": checks}, pretty)
    return failures.Exit.FAILED if problems else failures.Exit.DONE


def _headline(problems: int, warnings: int) -> str:
    said = [count(number, noun) for number, noun in ((problems, "problem"), (warnings, "warning")) if number]
    return ", ".join(said)


def _tell(screen: Screen, one: Check) -> None:
    screen.line()
    screen.prose(f"{one.state}: {one.found}", _STYLES[one.state])
    if one.why:
        screen.prose(f"  why: {one.why}")
    for number, line in enumerate(one.evidence):
        screen.prose(("  seen: " if number == 0 else "        ") + line)
    if one.next:
        screen.line(f"  next: {one.next}", "bold")


def _table(screen: Screen, checks: Sequence[Check]) -> None:
    rows: list[list[str | Cell]] = [[Cell(one.state, _STYLES[one.state]), one.name, one.found] for one in checks]
    screen.table(columns("STATE", "CHECK", "FOUND"), rows)


__all__ = ["Check", "doctor"]
