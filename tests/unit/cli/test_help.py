"""Every command explains itself, quickly, at any width; and the reference page is what they say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lain_cli.main import LAIN, LAIN_ALIASES, LAIN_SECTIONS, LAINCTL, LAINCTL_SECTIONS, MOVED
from lain_cli.options import LainCommand
from lain_cli.reference import page
from tests.fixtures.cli import Lain

ROOT = Path(__file__).resolve().parents[3]
OTHERS = {"local", "bootstrap"}
"""Groups that are not made here."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and group below ``group``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        if not path and name in OTHERS:
            continue
        found = group.get_command(context, name)
        assert found is not None, name
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


EVERY = [("lain", *found) for found in commands(LAIN)] + [("lainctl", *found) for found in commands(LAINCTL)]


@pytest.mark.parametrize(("tool", "path", "found"), EVERY, ids=[" ".join((tool, *path)) for tool, path, _ in EVERY])
def test_help_has_a_sentence_an_example_and_eighty_columns(
    lain: Lain, tool: str, path: tuple[str, ...], found: click.Command
) -> None:
    done = (lain if tool == "lain" else lain.ctl)(*path, "--help", width=80)
    assert done.code == 0 and done.err == ""
    assert max(len(line) for line in done.out.splitlines() if not line.startswith("  lain")) <= 80
    assert found.help and found.help.strip().splitlines()[0].rstrip().endswith((".", ":"))
    if isinstance(found, click.Group):
        return
    assert isinstance(found, LainCommand) and found.examples
    for example in found.examples:
        assert f"{tool} {' '.join(path)}" in example or any(alias in example for alias in LAIN_ALIASES)
        assert example in done.out
    names = {option for parameter in found.params for option in parameter.opts}
    assert ("--phase" in names) == found.takes_phase


def test_the_short_help_is_a_line_of_the_list(lain: Lain) -> None:
    shown = lain("--help", width=80).out
    for section in LAIN_SECTIONS.values():
        for name, (_, text) in section.items():
            assert f"  {name} " in shown and text in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    shown = lain.ctl("--help").out
    assert all(name in shown for section in LAINCTL_SECTIONS.values() for name in section)


def test_old_names_still_work(lain: Lain) -> None:
    for alias, name in LAIN_ALIASES.items():
        assert lain(alias, "--help").out.splitlines()[1:] == lain(name, "--help").out.splitlines()[1:]


def test_a_mistyped_command_is_guessed(lain: Lain) -> None:
    done = lain("deplyo")
    assert done.code == 2 and "Did you mean 'deploy'?" in done.err
    assert lain("frobnicate").code == 2


@pytest.mark.parametrize(("old", "now"), MOVED.items())
def test_commands_of_the_original_lead_to_todays(lain: Lain, old: str, now: str) -> None:
    done = lain(old, "web")
    assert done.code == 2 and now in done.err


def test_a_reader_that_has_enough_is_not_complained_about(lain: Lain) -> None:
    script = "from lain_cli.main import lain; lain()"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -c '{script}' completion bash | true"],
        capture_output=True, text=True, check=False, env=lain.environ,
    )  # fmt: skip
    assert done.stderr == ""


def test_a_terminal_without_our_characters_is_no_failure(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(
        "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: [é]}\nwörker: {}\n"
    )
    script = "from lain_cli.main import lain; lain()"
    done = subprocess.run(
        [sys.executable, "-c", script, "validate"], capture_output=True, text=True, check=False, cwd=lain.directory,
        env={**lain.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 1 and "w?rker" in done.stderr and "not have happened" not in done.stderr


def test_no_words_at_all_show_the_help(lain: Lain) -> None:
    done = lain()
    assert done.code == 2 and "Write and build:" in done.err


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from lain_cli.main import LAIN, run\ntry: run(LAIN, ['--help'])\nexcept SystemExit: pass\n"
    script += "print(sorted({'aiohttp', 'yaml', 'msgspec', 'rich', 'lain_sdk'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "write it anew: python -m lain_cli.reference > docs/cli.md"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(lain: Lain, shell: str) -> None:
    done = lain("completion", shell)
    assert done.code == 0 and "_LAIN_COMPLETE" in done.out and "_LAINCTL_COMPLETE" in done.out


def test_completion_knows_commands_and_phases(lain: Lain) -> None:
    lain.configure("prod", console="http://127.0.0.1:1")
    script = "from lain_cli.main import lain; lain()"

    def complete(*words: str) -> str:
        asked = {
            "_LAIN_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("lain", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False,
            env={**lain.environ, **asked},
        )  # fmt: skip
        return done.stdout

    assert "plain,deploy" in complete("depl")
    assert "plain,prod" in complete("ps", "-p", "")
