"""``lainctl doctor``: what this machine and the cluster can be asked, one line a check, each with its next step."""

from __future__ import annotations

import click

from lain_cli import failures
from lain_cli.checks import Check, run_checks
from lain_cli.context import Run
from lain_cli.options import command
from lain_cli.render import Cell, Screen, columns

_STYLES = {"ok": "good", "warning": "warn", "problem": "bad", "skipped": "dim"}


@command("doctor", examples=("lainctl doctor", "lainctl doctor -p prod -o json"))
@click.option("--offline", is_flag=True, help="Check this machine only.")
def doctor(run: Run, offline: bool) -> int:
    """Check Docker, disk, configuration, console, deployd, registry, certificates and clock. Exit code 1 on a problem."""
    checks = run_checks(run, offline=offline)

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = [[Cell(one.state, _STYLES[one.state]), one.name, one.found] for one in checks]
        screen.table(columns("STATE", "CHECK", "FOUND"), rows)
        for one in checks:
            if one.next:
                screen.line(f"next ({one.name}): {one.next}")

    bad = any(one.state == "problem" for one in checks)
    run.show({"ok": not bad, "checks": checks}, pretty)
    return failures.Exit.FAILED if bad else failures.Exit.DONE


__all__ = ["Check", "doctor"]
