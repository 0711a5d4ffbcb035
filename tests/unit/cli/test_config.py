"""Configuration: layers, phases, secrets; acceptance lines 1-4 of the command line's specification."""

from __future__ import annotations

import json
import stat

import pytest
import yaml

from lain_cli.config import Config
from lain_shared.errors import Invalid, NotFound
from tests.fixtures.cli import Lain


def test_an_empty_home_names_the_missing_phase_and_the_fix(lain: Lain) -> None:
    done = lain("ps", "--app", "hello", "-p", "local")
    assert done.code == 1 and done.out == ""
    assert "'local'" in done.err and "lain config save local" in done.err


def test_the_old_form_names_the_missing_phase_too(lain: Lain) -> None:
    done = lain("ps", "local")
    assert done.code == 1 and "'local'" in done.err and "lain config save local" in done.err


def test_a_saved_key_is_shown_and_the_file_is_private(lain: Lain) -> None:
    assert lain("config", "save", "local", "domain", "lain.local").code == 0
    assert lain("config", "show").json()["local"]["domain"] == "lain.local"
    file = lain.home / "lain.conf.yaml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(lain.home.stat().st_mode) == 0o700


def test_no_secret_is_shown(lain: Lain) -> None:
    lain.configure("local", token="sesame", registry_password="open", domain="d")
    done = lain("config", "show", "-o", "json")
    assert "sesame" not in done.out and '"open"' not in done.out
    assert done.json()["local"] == {"token": "***", "registry_password": "***", "domain": "d"}


def test_the_user_wins_over_the_system(lain: Lain) -> None:
    system = Config(lain.environ).system_file
    system.parent.mkdir()
    system.write_text("private_docker_registry: a:5000\nprod: {console: 'https://a:9510', domain: sys.org}\n")
    lain("config", "save-global", "private_docker_registry", "b:5000")
    lain("config", "save", "prod", "domain", "mine.org")
    shown = lain("config", "show").json()
    assert shown["private_docker_registry"] == "b:5000"
    assert shown["prod"] == {"console": "https://a:9510", "domain": "mine.org"}


@pytest.mark.parametrize(
    "words", [("save", "local", "colour", "red"), ("save-global", "phase", "x"), ("save", "1x", "domain", "d")]
)
def test_an_unknown_key_or_a_bad_name_is_refused(lain: Lain, words: tuple[str, ...]) -> None:
    done = lain("config", *words)
    assert done.code == 1 and words[1] in done.err + words[1]
    assert not (lain.home / "lain.conf.yaml").exists()


def test_the_phase_is_the_named_the_default_or_the_only_one(lain: Lain) -> None:
    def chosen(environ: dict[str, str] | None = None) -> str:
        return Config({**lain.environ, **(environ or {})}).default_phase()

    with pytest.raises(Invalid, match="no phase"):
        chosen()
    lain.configure("one", console="http://127.0.0.1:1")
    assert chosen() == "one"
    lain.configure("two", console="http://127.0.0.1:1")
    with pytest.raises(Invalid) as several:
        chosen()
    assert several.value.evidence == {"phases": ["one", "two"]} and "lain use" in several.value.next
    assert lain("use", "two").code == 0
    assert chosen() == "two"
    assert chosen({"LAIN_PHASE": "one"}) == "one"
    assert lain("use").out.splitlines() == ["  one", "* two"]
    assert lain("use", "three").code == 1


def test_a_phase_reads_its_keys_with_defaults(lain: Lain) -> None:
    lain.configure("p", console="https://c:1", router_http="8080", token="t")
    phase = Config(lain.environ).phase("p")
    assert (phase.console, phase.router_http, phase.router_https, phase.domain) == (
        "https://c:1",
        8080,
        443,
        "lain.localhost",
    )
    assert "'t'" not in repr(phase)
    assert Config({**lain.environ, "LAIN_TOKEN": "other"}).phase("p").token == "other"
    with pytest.raises(NotFound):
        Config(lain.environ).phase("q")


def test_a_bad_port_and_a_broken_file_are_told_by_name(lain: Lain) -> None:
    lain.configure("p", router_http="eighty")
    with pytest.raises(Invalid, match="router_http"):
        Config(lain.environ).phase("p")
    (lain.home / "lain.conf.yaml").write_text("p: [\n")
    done = lain("config", "show")
    assert done.code == 1 and "lain.conf.yaml" in done.err and "Traceback" not in done.err
    (lain.home / "lain.conf.yaml").write_text("- a list\n")
    assert "must hold a map" in lain("config", "show").err


def test_a_phase_can_be_forgotten(lain: Lain) -> None:
    config = Config(lain.environ)
    config.save_phase("p", {"domain": "d"})
    config.save_global("default_phase", "p")
    config.forget_phase("p")
    assert Config(lain.environ).phases() == ()
    assert yaml.safe_load((lain.home / "global.conf.yaml").read_text()) == {}


def test_a_value_can_come_from_standard_input(lain: Lain) -> None:
    lain("config", "save", "local", "token", "-", stdin="sesame\n")
    assert yaml.safe_load((lain.home / "lain.conf.yaml").read_text()) == {"local": {"token": "sesame"}}


def test_a_token_is_never_sent_in_clear_over_a_network(lain: Lain) -> None:
    lain.configure("p", console="http://10.1.2.3:9510", token="t")
    done = lain("dashboard", "-p", "p")
    assert done.code == 1 and "in clear" in done.err


def test_errors_are_json_too_when_json_is_asked_for(lain: Lain) -> None:
    done = lain("ps", "--app", "x", "-o", "json")
    assert done.code == 1
    assert json.loads(done.out)["error"]["code"] == "phase_unknown"
    assert done.err.startswith("error: no phase is configured")
