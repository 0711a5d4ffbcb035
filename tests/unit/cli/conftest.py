"""What tests of the command line run on."""

from __future__ import annotations

import pytest

from tests.fixtures.cli import FakeConsole, Lain
from tests.unit.cli import views
from tests.unit.cli.views import APP, REPO

MANIFEST = "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: hello}\n"


@pytest.fixture
def here(lain: Lain, console: FakeConsole) -> Lain:
    """In hello's directory, with both of its versions in the registry."""
    lain.commit({"lain.yaml": MANIFEST})
    console.answers["GET", REPO + "versions/"] = views.versions(views.NEW, views.OLD, current=views.OLD)
    console.answers["GET", APP] = views.app()
    return lain
