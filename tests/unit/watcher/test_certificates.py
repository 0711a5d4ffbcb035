"""Certificates from a directory: what serves, and what is told of what does not."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from lain_watcher.adapters.certificates import Certificates, read
from tests.fixtures.certificates import Authority

DAY = 86_400.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "certificates").mkdir()
    return tmp_path / "certificates"


def install(authority: Authority, directory: Path, stem: str, *, key_of: str | None = None) -> None:
    pair = authority.issue(stem)
    shutil.copy(pair / "cert.pem", directory / f"{stem}.crt")
    shutil.copy((authority.issue(key_of) if key_of else pair) / "key.pem", directory / f"{stem}.key")


def problems(found: Certificates) -> dict[str, str]:
    return {view.pattern: view.problem for view in found.views}


def test_names_are_patterns(authority: Authority, directory: Path) -> None:
    for stem in ("hello.example", "_wildcard.shop.example", "*.other.example"):
        install(authority, directory, stem)
    found = read(directory, now=time.time())
    assert set(found.usable) == {"hello.example", "*.shop.example", "*.other.example"}
    assert all(certificate.key.startswith("-----BEGIN") for certificate in found.usable.values())


def test_what_cannot_serve_is_left_out_and_says_why(authority: Authority, directory: Path) -> None:
    install(authority, directory, "good.example")
    install(authority, directory, "foreign.example", key_of="somebody else")
    install(authority, directory, "keyless.example")
    (directory / "keyless.example.key").unlink()
    (directory / "garbage.example.crt").write_text("nonsense")
    (directory / "garbage.example.key").write_text("nonsense")
    (directory / "notes.txt").write_text("not ours")
    found = read(directory, now=time.time())
    assert set(found.usable) == {"good.example"}
    told = problems(found)
    assert told["foreign.example"] == "the key is not this certificate's"
    assert "keyless.example.key" in told["keyless.example"]
    assert told["garbage.example"]
    assert "notes" not in str(told)
    assert not any("PRIVATE" in repr(view) for view in found.views)
    assert "PRIVATE" not in repr(found.usable)


def test_time_and_name_are_told_of_but_do_not_stop_it(authority: Authority, directory: Path) -> None:
    install(authority, directory, "hello.example")
    assert problems(read(directory, now=time.time()))["hello.example"] == "it expires in 1 days"
    expired = read(directory, now=time.time() + 2 * DAY)
    assert problems(expired)["hello.example"] == "it has expired"
    assert set(expired.usable) == {"hello.example"}
    early = read(directory, now=time.time() - 100 * DAY)
    assert problems(early)["hello.example"] == "it does not name hello.example"


def test_no_directory_holds_none(directory: Path) -> None:
    assert read(None, now=0.0) == Certificates()
    assert read(directory / "absent", now=0.0) == Certificates()
    assert read(directory, now=0.0) == Certificates()


def test_a_pair_that_is_being_replaced_serves_as_it_was(authority: Authority, directory: Path) -> None:
    """Chain and key are two files: between the two writes they do not fit, and no handshake may be refused for that."""
    install(authority, directory, "hello.example")
    before = read(directory, now=time.time())
    install(authority, directory, "hello.example", key_of="hello.example.next")
    torn = read(directory, now=time.time()).after(before)
    assert torn.usable == before.usable
    assert problems(torn)["hello.example"] == "the key is not this certificate's; the pair before it serves on"
    (directory / "hello.example.key").unlink()
    assert read(directory, now=time.time()).after(torn).usable == {}, "what was taken away is gone"
