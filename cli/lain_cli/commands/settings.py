"""This machine's side: configuration, the default phase, tokens, shell completion, versions."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import version as version_of
from typing import Any

import click
from click.shell_completion import get_completion_class

from lain_cli.config import GLOBAL_KEYS, PHASE_KEYS, Config
from lain_cli.context import Run
from lain_cli.options import command, complete_phase, group
from lain_cli.render import Screen, when
from lain_shared.errors import Invalid, LainError, NotFound


def _keys(keys: dict[str, str]) -> str:
    return "\n".join(f"  {name}: {help}" for name, help in keys.items())


@command("show", phase=False, examples=("lain config show", "lain config show -o json-pretty"))
def show(run: Run) -> None:
    """The merged configuration; tokens and passwords hidden."""
    shown = run.config.shown()
    text = shown

    def pretty(screen: Screen) -> None:
        from lain_cli.render import to_json  # noqa: PLC0415

        screen.line(to_json(text, pretty=True))

    run.show(shown, pretty)


@command(
    "save", phase=False,
    help="Set one key of a phase; a new phase is made.\n\n\b\nKeys:\n" + _keys(dict(PHASE_KEYS)),
    examples=("lain config save prod console https://10.0.0.1:9510", "lain config save prod ca ./ca.pem"),
)  # fmt: skip
@click.argument("phase")
@click.argument("key")
@click.argument("value")
def save(run: Run, phase: str, key: str, value: str) -> None:
    if value == "-":
        value = sys.stdin.read().strip()
    if key == "ca" and "-----BEGIN" not in value:
        value = str((run.directory / value).resolve())
    run.config.save_phase(phase, {key: value})
    run.show({"phase": phase, "key": key}, lambda screen: screen.line(f"saved {key} of phase {phase}", "good"))


@command(
    "save-global", phase=False,
    help="Set one key that is no phase's.\n\n\b\nKeys:\n" + _keys(dict(GLOBAL_KEYS)),
    examples=("lain config save-global private_docker_registry registry.example.org:5000",),
)  # fmt: skip
@click.argument("key")
@click.argument("value")
def save_global(run: Run, key: str, value: str) -> None:
    run.config.save_global(key, value)
    run.show({"key": key, "value": value}, lambda screen: screen.line(f"saved {key}", "good"))


config = group(
    "config",
    "Show and change the configuration: files in ~/.lain (LAIN_HOME) and /etc/lain.",
    (show, save, save_global),
    phase=False,
)


@command("use", phase=False, examples=("lain use prod", "lain use"))
@click.argument("phase", required=False, shell_complete=complete_phase)
def use(run: Run, phase: str | None) -> None:
    """Choose the phase that is used when none is named; without PHASE, list them."""
    if phase is not None:
        run.config.phase(phase)
        run.config.save_global("default_phase", phase)
        run.show({"default_phase": phase}, lambda screen: screen.line(f"{phase} is the default phase", "good"))
        return
    names = run.config.phases()
    try:
        chosen = run.config.default_phase()
    except LainError:
        chosen = ""

    def pretty(screen: Screen) -> None:
        for name in names:
            screen.line(f"{'*' if name == chosen else ' '} {name}", "bold" if name == chosen else "")
        if not names:
            screen.line("no phase is configured; lain local up makes one")

    run.show({"phases": names, "default_phase": chosen}, pretty)


@command(
    "login",
    examples=("lain login -p prod --console https://10.0.0.1:9510 --ca ca.pem --token - < token", "lain login -p prod"),
)
@click.option("--token", metavar="TOKEN", help="The token; - reads it from standard input (default: asked for).")
@click.option("--console", "console_url", metavar="URL", help="Address of the console, for a new phase.")
@click.option("--deployd", metavar="URL", help="Address of the deployd controller, for operators.")
@click.option("--ca", metavar="FILE", help="The cluster's CA.")
def login(run: Run, token: str | None, console_url: str | None, deployd: str | None, ca: str | None) -> None:
    """Store a token for a phase, after the console has said whose it is.

    With --console and --ca the phase is made. What the cluster knows of itself (domain, ports, registry) is stored too.
    """
    name = run.phase_name or run.config.default_phase()
    text = _token_text(token)
    values: dict[str, Any] = {"token": text}
    for key, value in (("console", console_url), ("deployd", deployd)):
        if value:
            values[key] = value
    if ca:
        values["ca"] = str((run.directory / ca).resolve())
    trial = _trial(run, name, values)
    who, cluster = trial
    values |= {
        "domain": cluster.domain,
        "router_http": cluster.router_http_port,
        "router_https": cluster.router_https_port,
    }
    if cluster.registry_push:
        values["registry"] = cluster.registry_push
    run.config.save_phase(name, values)
    scope = f" for {', '.join(who.apps)}" if who.apps else ""
    until = f", until {when(who.expires_at)}" if who.expires_at else ""
    run.show(
        {"phase": name, "whoami": who},
        lambda s: s.line(f"logged in to {name} as {who.name} ({who.role}{scope}{until})", "good"),
    )


def _token_text(token: str | None) -> str:
    text = (token or "-").strip()
    if text == "-":
        text = _ask_token() if token is None and sys.stdin.isatty() else sys.stdin.read().strip()
    if not text or any(char.isspace() for char in text):
        raise Invalid("there is no token", next="lain login --token - < FILE", code="no_token")
    return text


def _ask_token() -> str:
    return str(click.prompt("Token", hide_input=True, err=True)).strip()


def _trial(run: Run, name: str, values: dict[str, Any]) -> Any:
    """Whoami and cluster, as these values would make them; nothing is stored yet."""
    from lain_sdk.client import Console  # noqa: PLC0415

    probe = Run({**run.environ, "LAIN_TOKEN": values["token"]}, run.directory)
    probe.config = _Overlaid(run.environ, name, values)
    probe.phase_name = name

    async def ask(console: Console) -> Any:
        return await console.whoami(), await console.cluster()

    return probe.call(ask)


class _Overlaid(Config):
    """The configuration as it would be with these values."""

    def __init__(self, environ: Any, phase: str, values: dict[str, Any]) -> None:
        super().__init__(environ)
        self._phase, self._values = phase, values

    def merged(self) -> dict[str, Any]:
        found = super().merged()
        return {**found, self._phase: {**(found.get(self._phase) or {}), **self._values}}


@command(
    "completion",
    phase=False,
    output=False,
    examples=('eval "$(lain completion bash)"', "lain completion fish | source"),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), required=False)
def completion(run: Run, shell: str | None) -> None:
    """Print the completion script of a shell (default: yours)."""
    name = shell or run.environ.get("SHELL", "bash").rsplit("/", 1)[-1]
    found = get_completion_class(name)
    if found is None:
        raise NotFound(f"there is no completion for {name}", next="lain completion bash", code="no_completion")
    from lain_cli.main import LAIN, LAINCTL  # noqa: PLC0415

    for each in (LAIN, LAINCTL):
        variable = f"_{(each.name or '').upper()}_COMPLETE"
        click.echo(found(each, {}, each.name or "", variable).source())


@command("version", examples=("lain version", "lain version -o json"))
@click.option("--client", "only_client", is_flag=True, help="Ask no cluster.")
def version(run: Run, only_client: bool) -> None:
    """Versions of this client and, when one is configured, of the cluster."""
    document: dict[str, Any] = {"client": version_of("lain-cli"), "python": platform.python_version(), "cluster": None}
    problem = ""
    if not only_client and run.config.phases():
        try:
            cluster = run.call(lambda console: console.cluster())
            document["cluster"] = {"phase": run.phase.name, "name": cluster.name, "console": cluster.console_version}
        except LainError as error:
            problem = error.message
            document["problem"] = problem

    def pretty(screen: Screen) -> None:
        screen.line(f"lain {document['client']} (Python {document['python']})")
        if document["cluster"]:
            cluster = document["cluster"]
            screen.line(f"cluster {cluster['name']} (phase {cluster['phase']}): console {cluster['console']}")
        if problem:
            screen.line(f"cluster: {problem}", "warn")

    run.show(document, pretty)
