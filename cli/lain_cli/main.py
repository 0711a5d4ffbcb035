"""``lain`` and ``lainctl``: names of commands, and where each lives. A command is imported only when it is run, so help is quick."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click

from lain_cli import failures
from lain_cli.context import Run
from lain_cli.failures import Exit
from lain_cli.options import output_option, phase_option
from lain_shared.errors import LainError

Section = Mapping[str, tuple[str, str]]
"""Command → (``module:attribute``, one line of help)."""

_C = "lain_cli.commands."
LAIN_SECTIONS: Mapping[str, Section] = {
    "Write and build": {
        "init": (_C + "manifest:init", "Write a first lain.yaml by looking at the repository."),
        "validate": (_C + "manifest:validate", "Check manifests; tells every fault at once."),
        "meta": (_C + "manifest:meta", "Print the version this commit gets."),
        "prepare": (_C + "images:prepare", "Build or reuse the image of dependencies."),
        "prepare-update": (_C + "images:prepare_update", "Run the prepare script again on top of its image."),
        "build": (_C + "images:build", "Build the app's images from this commit."),
        "test": (_C + "images:test", "Build, then run the manifest's tests."),
        "dev": (_C + "dev:dev", "Run a proc in a container on this machine."),
        "tag": (_C + "images:tag", "Tag this commit's images for a cluster's registry."),
        "push": (_C + "images:push", "Upload this commit's images to the cluster's registry."),
        "check": (_C + "images:check", "Is this commit in the cluster's registry?"),
        "clear": (_C + "images:clear", "Remove this app's unversioned local images."),
        "rmi": (_C + "images:rmi", "Remove local copies of this app's images."),
    },
    "Deploy": {
        "reposit": (_C + "apps:reposit", "Register the app's name in the cluster."),
        "ship": (_C + "ship:ship", "Build, push and deploy in one go."),
        "deploy": (_C + "deploy:deploy", "Deploy a version; without losing a request."),
        "rollback": (_C + "deploy:rollback", "Go back to an earlier release."),
        "cancel": (_C + "deploy:cancel", "Stop the running operation; back to where it came from."),
        "scale": (_C + "procs:scale", "Change instances, CPU or memory of a proc."),
        "restart": (_C + "procs:restart", "Replace running instances, one by one."),
        "stop": (_C + "procs:stop", "Stop instances; they keep their number."),
        "start": (_C + "procs:start", "Start stopped instances."),
        "env": (_C + "env:env", "The app's environment, over the manifest's."),
        "undeploy": (_C + "deploy:undeploy", "Stop the app; its name, releases and volumes stay."),
        "sync": (_C + "images:sync", "Copy a version from one cluster's registry to another's."),
    },
    "Look": {
        "ps": (_C + "apps:ps", "The app: procs, instances, addresses."),
        "dashboard": (_C + "apps:dashboard", "Every app of the cluster."),
        "explain": (_C + "apps:explain", "Why is it not well, and what to do."),
        "logs": (_C + "streams:logs", "Output of an instance."),
        "exec": (_C + "streams:exec_", "Run a command inside an instance."),
        "history": (_C + "history:history", "What was done to the app, by whom, how it ended."),
        "versions": (_C + "apps:versions", "Versions in the cluster's registry."),
        "open": (_C + "apps:open_", "Open the app in a browser."),
    },
    "This machine": {
        "local": ("lain_cli.local.commands:local", "A whole cluster on this machine."),
        "config": (_C + "settings:config", "Show and change the configuration."),
        "use": (_C + "settings:use", "Choose the default phase."),
        "login": (_C + "settings:login", "Store a token for a phase."),
        "completion": (_C + "settings:completion", "Print the completion script of a shell."),
        "version": (_C + "settings:version", "Versions of client and cluster."),
    },
}
LAINCTL_SECTIONS: Mapping[str, Section] = {
    "Operate": {
        "doctor": (_C + "doctor:doctor", "Check this machine and the cluster; says what to do."),
        "node": (_C + "cluster:node", "Nodes: list, inspect."),
        "switch": (_C + "cluster:switch", "Switches: readonly, maintenance, guard, breaker."),
        "router": (_C + "cluster:router", "Routers: what they have applied; forget one."),
        "volume": (_C + "volumes:volume", "Volumes: what is on a node; give up what is lost."),
        "token": (_C + "cluster:token", "Tokens: create, list, revoke."),
        "bootstrap": ("lain_cli.bootstrap.commands:bootstrap", "Make a cluster's CA, certificates and first token."),
    },
}
MOVED: Mapping[str, str] = {
    "run": "dev run",
    "debug": "dev debug",
    "rm": "dev rm",
    "enter": "exec",
    "attach": "logs -f",
    "refresh": "login",
    "maintainer": "lainctl token",
}
"""Commands of the original, and what does their work now."""
LAIN_ALIASES: Mapping[str, str] = {"register": "reposit", "appversion": "versions"}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is used."""

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Section], aliases: Mapping[str, str], **more: Any
    ) -> None:
        super().__init__(*arguments, **more)
        self.sections = sections
        self.aliases = aliases
        self._places = {name: place for section in sections.values() for name, place in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self._places:
            return None
        module, _, attribute = self._places[name][0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)  # noqa: S101 - a wrong table is caught by the tests
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib  # noqa: PLC0415 - only for mistyped commands

            if self.name == "lain" and args[0] in MOVED:
                now = MOVED[args[0]]
                raise click.UsageError(
                    f"{args[0]!r} is now {now if now.startswith('lainctl') else 'lain ' + now!r}.", ctx
                ) from error

            near = difflib.get_close_matches(args[0], [*self._places, *self.aliases], n=1)
            if near and "No such command" in error.format_message():
                raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        for title, section in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, place[1]) for name, place in section.items()])


def _group(name: str, sections: Mapping[str, Section], aliases: Mapping[str, str], help: str) -> LazyGroup:
    return LazyGroup(
        name,
        sections=sections,
        aliases=aliases,
        params=[phase_option(), output_option()],
        help=help,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


LAIN = _group(
    "lain", LAIN_SECTIONS, LAIN_ALIASES,
    "From a commit to a running, routed app.\n\nStart here: lain init, lain ship --register. "
    "A cluster is called a phase; data goes to standard output, everything else to standard error.",
)  # fmt: skip
LAINCTL = _group("lainctl", LAINCTL_SECTIONS, {}, "Operate a LAIN cluster.")


def run(group: click.Group, argv: Sequence[str], obj: Run | None = None) -> int:
    """One invocation; its exit code. Whatever goes wrong is told here, and never as a stack trace."""
    state = obj or Run()
    try:
        answer = group.main(args=list(argv), prog_name=group.name, standalone_mode=False, obj=state)
        return answer if isinstance(answer, int) else Exit.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return Exit.USAGE
    except click.UsageError as error:
        return _usage(error)
    except click.ClickException as error:
        return _tell(LainError(error.format_message(), code="failed"))
    except LainError as error:
        return _failed(error, state)
    except (KeyboardInterrupt, click.Abort):
        return _tell(failures.Interrupted("interrupted"))
    except Exception as error:  # the last line before a person
        return _crashed(error, state, [group.name or "lain", *argv])


def _usage(error: click.UsageError) -> Exit:
    where = error.ctx.command_path if error.ctx else ""
    return _tell(LainError(error.format_message(), next=f"{where} --help" if where else "", code="usage"), Exit.USAGE)


def _failed(error: LainError, state: Run) -> Exit:
    state.progress.end()
    if state.output != "pretty":
        from lain_cli.render import to_json  # noqa: PLC0415 - only when a script reads us

        sys.stdout.write(to_json(error.to_document(), pretty=state.output == "json-pretty") + "\n")
    return _tell(error)


def _tell(error: LainError, code: Exit | None = None) -> Exit:
    failures.tell(error, sys.stderr, colour=sys.stderr.isatty())
    return failures.exit_code(error) if code is None else code


def _crashed(error: Exception, state: Run, argv: list[str]) -> Exit:
    path = failures.crash_report(error, state.config.home, argv)
    where = f"details in {path}; please report it" if path else "its details could not be kept"
    return _tell(LainError(f"this should not have happened: {type(error).__name__}", next=where, code="crashed"))


def _entry(group: click.Group) -> Callable[[], NoReturn]:
    def entry() -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows another one
                stream.reconfigure(errors="replace")
        sys.exit(run(group, sys.argv[1:]))

    return entry


lain = _entry(LAIN)
lainctl = _entry(LAINCTL)
