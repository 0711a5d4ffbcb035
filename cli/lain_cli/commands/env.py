"""``lain env``: the app's environment, set over the manifest's; in force from the next release on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from lain_cli.commands.deploy import DETACH, TIMEOUT
from lain_cli.context import Run
from lain_cli.follow import conclude
from lain_cli.options import app_argument, app_option, command, group
from lain_cli.render import Cell, Column, Screen, columns

if TYPE_CHECKING:
    from lain_sdk.api_types import EnvView

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@command("show", examples=("lain env show", "lain env show --app hello -o json"))
@app_argument
def show(run: Run, app: str | None) -> None:
    """What is set, and what each proc has from its manifest."""
    name = run.app(app)
    view = run.call(lambda console: console.env(name))

    def pretty(screen: Screen) -> None:
        rows: list[list[str | Cell]] = [[key, value, "lain env"] for key, value in sorted(view.set.items())]
        for proc, pairs in sorted(view.manifest.items()):
            for key, value in sorted(pairs.items()):
                over = key in view.set
                rows.append(
                    [Cell(key, "dim" if over else ""), value, f"manifest, {proc}" + (" (overridden)" if over else "")]
                )
        if rows:
            screen.table(columns("NAME", Column("VALUE", least=12), "FROM"), rows)
        else:
            screen.line(f"{name} has no environment of its own")

    run.show(view, pretty)


def pairs_of(words: tuple[str, ...]) -> dict[str, str]:
    """``K=V`` words as a map; a usage error names the first that is none."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not _NAME.match(name):
            raise click.UsageError(f"{word!r} is not NAME=VALUE")
        found[name] = value
    return found


@command("set", examples=("lain env set MODE=fast GREETING='hi there'",))
@click.argument("pairs", nargs=-1, required=True, metavar="NAME=VALUE…")
@app_option
@DETACH
@TIMEOUT
def set_(run: Run, *, pairs: tuple[str, ...], app: str | None, detach: bool, timeout: float | None) -> None:
    """Set variables. A running app gets a new release; secrets do not belong here."""
    values = pairs_of(pairs)
    name = run.app(app)
    accepted = run.call(lambda console: console.set_env(name, values))
    conclude(run, name, accepted, "env", detach=detach, timeout_seconds=timeout)


@command("unset", examples=("lain env unset MODE GREETING",))
@click.argument("names", nargs=-1, required=True, metavar="NAME…")
@app_option
@DETACH
@TIMEOUT
def unset(run: Run, *, names: tuple[str, ...], app: str | None, detach: bool, timeout: float | None) -> None:
    """Remove variables that lain env set; the manifest's come back."""
    name = run.app(app)
    accepted = run.call(lambda console: console.set_env(name, unset=names))
    conclude(run, name, accepted, "env", detach=detach, timeout_seconds=timeout)


@command("diff", examples=("lain env diff",))
@app_argument
def diff(run: Run, app: str | None) -> None:
    """Where what is set differs from what runs."""
    name = run.app(app)
    view = run.call(lambda console: console.env(name))
    changes = differences(view)

    def pretty(screen: Screen) -> None:
        for change in changes:
            old, new = change["running"], change["set"]
            if old is not None:
                screen.line(f"- {change['name']}={old}", "bad")
            if new is not None:
                screen.line(f"+ {change['name']}={new}", "good")
        if not changes:
            screen.line("what is set is what runs")

    run.show({"app": name, "changes": changes}, pretty)


def differences(view: EnvView) -> list[dict[str, str | None]]:
    """Variables whose set value is not the running one (pure)."""
    names = sorted(view.set.keys() | view.running.keys())
    return [
        {"name": name, "running": view.running.get(name), "set": view.set.get(name)}
        for name in names
        if view.running.get(name) != view.set.get(name)
    ]


env = group(
    "env", "The app's environment, over the manifest's. A change makes a new release.", (show, set_, unset, diff)
)
