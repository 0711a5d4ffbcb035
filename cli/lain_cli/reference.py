"""``docs/cli.md`` out of the commands' own help: ``python -m lain_cli.reference > docs/cli.md``. A test compares them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping

import click

from lain_cli.failures import Exit
from lain_cli.main import LAIN, LAIN_ALIASES, LAINCTL, LazyGroup
from lain_cli.options import LainCommand

ELSEWHERE = frozenset({"local", "bootstrap"})
"""Groups with a page of their own."""
COMMON = frozenset({"--phase", "--output", "--help"})
MEANING: Mapping[Exit, str] = {
    Exit.DONE: "done",
    Exit.FAILED: "failed",
    Exit.USAGE: "wrong usage",
    Exit.REFUSED: "refused by plan; nothing was changed",
    Exit.ROLLED_BACK: "rolled back; what ran before runs",
    Exit.BUSY: "busy: another operation runs",
    Exit.UNREACHABLE: "unreachable: Docker, the registry or the cluster",
    Exit.INTERRUPTED: "interrupted; what was started in the cluster goes on",
}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# The command line",
        "",
        "Made from the commands themselves: `python -m lain_cli.reference > docs/cli.md`.",
        "",
        "A cluster is called a *phase*. `-p/--phase` chooses one, on any level; else `LAIN_PHASE`, else the only or default one",
        "(`lain use`). A first word that names a configured phase is taken too: `lain ps prod`. `-o json` (or `json-pretty`) gives",
        "data for scripts: the objects of `lain_sdk.api_types`, fields are only ever added. Data goes to standard output,",
        "everything else to standard error.",
        "",
        "| Exit code | Meaning |",
        "|---|---|",
        *(f"| {int(code)} | {text} |" for code, text in MEANING.items()),
        "",
    ]
    for group in (LAIN, LAINCTL):
        lines += [f"## {group.name}", ""]
        for title, section in group.sections.items():
            lines += [f"### {group.name}: {title.lower()}", ""]
            for name in section:
                lines += _command(group, name)
    return "\n".join(lines).rstrip() + "\n"


def _command(group: LazyGroup, name: str) -> list[str]:
    if name in ELSEWHERE:
        return [f"#### {group.name} {name}", "", f"See `{group.name} {name} --help`.", ""]
    found = group.get_command(click.Context(group), name)
    if found is None:
        return []
    if isinstance(found, click.Group):
        lines: list[str] = []
        for verb in found.list_commands(click.Context(found)):
            lines += _entry(found.commands[verb], f"{group.name} {name} {verb}", ())
        return lines
    aliases = tuple(alias for alias, real in LAIN_ALIASES.items() if real == name and group is LAIN)
    return _entry(found, f"{group.name} {name}", aliases)


def _entry(command: click.Command, name: str, aliases: tuple[str, ...]) -> list[str]:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines = [f"#### {name}", "", "```", usage, "```", ""]
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    lines += [text, ""]
    if aliases:
        lines += [f"Also: {', '.join(f'`lain {alias}`' for alias in aliases)}.", ""]
    options = [one for one in command.params if isinstance(one, click.Option) and not COMMON & set(one.opts)]
    if options:
        lines += ["| Option | |", "|---|---|"]
        for option in options:
            record = option.get_help_record(context)
            if record is not None:
                words = record[0].replace("|", "\\|")
                lines.append(f"| `{words}` | {record[1].replace('|', chr(92) + '|')} |")
        lines.append("")
    if isinstance(command, LainCommand):
        lines += ["```sh", *command.examples, "```", ""]
    return lines


if __name__ == "__main__":
    sys.stdout.write(page())
