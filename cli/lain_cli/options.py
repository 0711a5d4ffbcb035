"""The one shape of every command: phase, output form, app, and a help page that ends in an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from lain_cli.context import Run

F = TypeVar("F", bound=Callable[..., Any])
OUTPUTS = ("pretty", "json", "json-pretty")


class LainCommand(click.Command):
    """A command of ours.

    ``phase``: it talks to a cluster, so ``-p`` may stand anywhere and a first positional that names a configured phase is taken as the
    old form. ``output``: it has ``-o``. ``examples``: shown at the end of its help; there is at least one.
    """

    def __init__(
        self,
        *arguments: Any,
        phase: bool = True,
        output: bool = True,
        examples: Sequence[str] = (),
        see: str = "",
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self.takes_phase = phase
        self.examples = tuple(examples)
        self.see = see
        if phase:
            self.params.append(phase_option())
        if output:
            self.params.append(output_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.takes_phase and not ctx.resilient_parsing and args:
            args = self._without_old_phase(ctx, args)
        return super().parse_args(ctx, args)

    def _without_old_phase(self, ctx: click.Context, args: list[str]) -> list[str]:
        """``lain ps local`` → ``lain ps`` with the phase set, when ``local`` is the first positional and is configured."""
        run: Run = ctx.ensure_object(Run)
        try:
            given, positional = self._split(ctx, args)
        except click.UsageError:
            return args
        phases = run.config.phases()
        if run.phase_name or given.get("phase") or not positional or (phases and positional[0] not in phases):
            return args
        if not phases and not any(isinstance(one, click.Argument) and one.name == "app_word" for one in self.params):
            return args
        if not phases:
            run.config.phase(positional[0])  # raises: with no phase at all, a first word names what is missing
        for index, word in enumerate(args):
            if word != positional[0]:
                continue
            shorter = args[:index] + args[index + 1 :]
            try:
                again, rest = self._split(ctx, shorter)
            except click.UsageError:
                continue
            if again == given and rest == positional[1:]:
                run.phase_name = word
                return shorter
        return args

    def _split(self, ctx: click.Context, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """Options and positional words of ``args``."""
        options_only = click.Command(self.name, params=[one for one in self.params if isinstance(one, click.Option)])
        given, words, _ = options_only.make_parser(ctx).parse_args(list(args))
        return dict(given), words

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                for example in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


def _set_phase(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Run).phase_name = value


def _set_output(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Run).output = value


def complete_phase(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    run = ctx.find_object(Run) or Run()
    return [name for name in run.config.phases() if name.startswith(incomplete)]


def phase_option() -> click.Option:
    """``-p``: the cluster; it may stand on any level, the last one wins."""
    return click.Option(
        ["-p", "--phase"],
        metavar="PHASE",
        expose_value=False,
        callback=_set_phase,
        shell_complete=complete_phase,
        help="Cluster to use (default: LAIN_PHASE, else the only or default one).",
    )


def output_option() -> click.Option:
    """``-o``: the form of the data."""
    return click.Option(
        ["-o", "--output"],
        type=click.Choice(OUTPUTS),
        expose_value=False,
        callback=_set_output,
        help="Form of the data on standard output.",
    )


def group(name: str, help: str, commands: Sequence[click.Command], *, phase: bool = True) -> click.Group:
    """A noun with its verbs; takes ``-p`` and ``-o`` for them."""
    options = [phase_option()] if phase else []
    return click.Group(
        name, commands={str(one.name): one for one in commands}, params=[*options, output_option()], help=help
    )


def command(name: str, *, examples: Sequence[str], **more: Any) -> Callable[[Callable[..., Any]], LainCommand]:
    """Make a command whose function gets the ``Run`` first."""

    def decorate(function: Callable[..., Any]) -> LainCommand:
        return click.command(name, cls=LainCommand, examples=examples, **more)(click.pass_obj(function))

    return decorate


def app_option(function: F) -> F:
    """``--app``: act on another app than this directory's (``-t/--target`` is the old name)."""
    return click.option(
        "-a", "--app", "-t", "--target", "app", metavar="APP", shell_complete=_complete_app,
        help="The app (default: the one whose lain.yaml is here).",
    )(function)  # fmt: skip


def app_argument(function: F) -> F:
    """``--app``, or the app as a word of its own: ``lain ps hello``."""
    word = click.argument(
        "app_word", required=False, metavar="[APP]", expose_value=False, callback=_set_app, shell_complete=_complete_app
    )
    return word(app_option(function))


def _set_app(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value:
        ctx.ensure_object(Run).app_word = value


def _complete_app(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of the phase's apps; nothing when the cluster does not answer at once."""
    run = ctx.find_object(Run) or Run()
    try:
        apps = run.call(lambda console: console.apps())
    except Exception:  # completion is a courtesy; it never complains
        return []
    return [app.name for app in apps if app.name.startswith(incomplete)]
