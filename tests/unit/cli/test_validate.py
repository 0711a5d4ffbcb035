"""``lain validate``: anywhere, without a cluster, every fault at once."""

from __future__ import annotations

from tests.fixtures.cli import Lain

GOOD = "appname: hello\nbuild: {base: b, script: []}\nweb: {cmd: hello}\nworker.mailer: {cmd: m}\n"
NINE = """\
appname: He_llo
build: {base: '', scripts: []}
web:
  cmd: 'unbalanced "quote'
  port: 99999
  memory: 64
  kill_timeout: 0
  mountpoint: no
worker.a.b: {cmd: x}
oneshot.c: {cmd: x, cmd: y}
"""


def test_valid(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(GOOD)
    done = lain("validate")
    assert (done.code, done.out, done.err) == (0, "lain.yaml: valid: app hello, procs web (web), mailer (worker)\n", "")
    assert lain("validate", "-o", "json").json() == {
        "valid": True,
        "files": [{
            "file": "lain.yaml", "valid": True, "faults": [], "appname": "hello",
            "procs": [{"name": "web", "type": "web"}, {"name": "mailer", "type": "worker"}],
        }],
    }  # fmt: skip


def test_every_fault_is_told_with_its_line(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(NINE)
    done = lain("validate")
    assert done.code == 1
    faults = done.err.splitlines()
    assert len(faults) >= 9 and all(line.startswith("lain.yaml:") for line in faults)
    for path in (
        "appname",
        "build.scripts",
        "web.cmd",
        "web.port",
        "web.memory",
        "web.kill_timeout",
        "web.mountpoint",
        "oneshot.c",
    ):
        assert any(path in line for line in faults), path
    assert done.out.startswith("lain.yaml: ") and "faults" in done.out
    told = lain("validate", "-o", "json")
    assert told.code == 1 and told.err == ""
    assert {fault["line"] for fault in told.json()["files"][0]["faults"]} >= {1, 2, 4, 5, 6, 7, 8, 9, 10}


def test_service_names_must_be_distinct(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(GOOD + "use_services: {one: [db], two: [db]}\n")
    done = lain("validate")
    assert done.code == 1 and "db" in done.err


def test_several_files_and_directories(lain: Lain) -> None:
    (lain.directory / "a.yaml").write_text(GOOD)
    (lain.directory / "sub").mkdir()
    (lain.directory / "sub" / "lain.yaml").write_text("appname: 1\n")
    done = lain("validate", "a.yaml", "sub")
    assert done.code == 1 and "a.yaml: valid" in done.out and "sub: " in done.out
    assert lain("validate", "nope.yaml").code == 1
    assert "no lain.yaml" in lain("validate").err


def test_a_phase_is_not_needed_and_not_taken(lain: Lain) -> None:
    (lain.directory / "lain.yaml").write_text(GOOD)
    assert lain("validate", "-p", "local").code == 2
