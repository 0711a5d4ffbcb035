"""Which version a word of the command line names."""

from __future__ import annotations

import pytest

from lain_cli.commands.deploy import match_version, resolve_version
from lain_cli.context import Run
from lain_sdk.api_types import VersionView
from lain_shared.errors import NotFound

COMMIT = "be50cc690665fb0bd9df520078f2a06135896cbf"
WHOLE, OTHER = f"1795355698-{COMMIT}", "1795355758-0d8cea8a361755ab7c71d8c40cc76f78250b338b"
KNOWN = [VersionView(name, 0.0, name.partition("-")[2], deployable=True) for name in (WHOLE, OTHER)]


def test_a_whole_version_is_not_looked_up() -> None:
    """Each look-up is a connection and an answer that somebody waits for; the console knows it in any case."""
    run = Run(environ={})
    run.call = lambda _: pytest.fail("asked the console")  # type: ignore[method-assign]
    assert resolve_version(run, "hello", WHOLE) == WHOLE


@pytest.mark.parametrize("text", [WHOLE, "1795355698", COMMIT[:7]])
def test_its_beginning_or_its_commits_names_it(text: str) -> None:
    assert match_version(text, KNOWN, "hello") == WHOLE


@pytest.mark.parametrize("text", ["17953557580", "1795355", "fff"])
def test_what_names_none_or_several_is_refused(text: str) -> None:
    with pytest.raises(NotFound):
        match_version(text, KNOWN, "hello")
