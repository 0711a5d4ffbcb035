"""``lain init``: whatever lies in a repository, the manifest it writes is valid."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_cli.scaffold import appname, propose
from lain_sdk.manifest import load
from tests.fixtures.cli import Lain

PACKAGE = '{"scripts": {"start": "node x", "build": "tsc"}, "engines": {"node": ">=22"}}'


@pytest.mark.parametrize(
    ("files", "base", "procs"),
    [
        ({}, "debian:12-slim", {"web"}),
        ({"requirements.txt": "flask\n", "app.py": ""}, "python:3.12-slim", {"web"}),
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.13'\n"}, "python:3.13-slim", {"web"}),
        ({"pyproject.toml": "not toml ["}, "python:3.12-slim", {"web"}),
        ({"package.json": PACKAGE, "package-lock.json": "{}"}, "node:22-slim", {"web"}),
        ({"package.json": "not json"}, "node:20-slim", {"web"}),
        ({"go.mod": "module x\n\ngo 1.22\n"}, "golang:1.22", {"web"}),
        ({"Procfile": "web: gunicorn app:app --port $PORT\nworker: python w.py\nrelease: ./migrate && echo ok\n", "requirements.txt": ""},
         "python:3.12-slim", {"web", "worker", "release"}),
        ({"Procfile": "mailer_x: run 'unbalanced\n", "requirements.txt": ""}, "python:3.12-slim", {"mailer-x"}),
    ],
)  # fmt: skip
def test_what_is_found_decides(files: dict[str, str], base: str, procs: set[str]) -> None:
    proposal = propose(files, "My App")
    manifest = load(proposal.text)
    assert manifest.appname == proposal.appname == "my-app"
    assert manifest.build is not None and manifest.build.base == base
    assert set(manifest.procs) == procs
    assert proposal.because


def test_a_dockerfile_is_used_as_it_is() -> None:
    manifest = load(propose({"Dockerfile": "FROM x\nEXPOSE 9000\n", "requirements.txt": ""}, "x").text)
    assert manifest.build is not None and manifest.build.dockerfile == "Dockerfile"
    assert manifest.procs["web"].port == 9000 and manifest.procs["web"].cmd is None


def test_procfile_commands_keep_their_meaning() -> None:
    manifest = load(propose({"Procfile": "web: serve --port $PORT\nworker: a && b\nclock: x $HOME\n"}, "x").text)
    assert manifest.procs["web"].cmd == ("serve", "--port", "8000")
    assert manifest.procs["worker"].cmd == ("/bin/sh", "-c", "a && b")
    assert manifest.procs["clock"].cmd == ("/bin/sh", "-c", "exec x $HOME")


@given(
    st.dictionaries(
        st.sampled_from(["Procfile", "package.json", "go.mod", "pyproject.toml", "requirements.txt", "Dockerfile"]),
        st.text(),
    ),
    st.text(),
)
def test_it_always_validates(files: dict[str, str], name: str) -> None:
    proposal = propose(files, name)
    assert load(proposal.text).appname == appname(name)


def test_init_writes_once(lain: Lain) -> None:
    (lain.directory / "requirements.txt").write_text("")
    done = lain("init", "--name", "hello")
    assert done.code == 0 and "app hello" in done.out and lain("validate").code == 0
    again = lain("init")
    assert again.code == 1 and "already there" in again.err
    assert lain("init", "--stdout").out.startswith("appname: ")
