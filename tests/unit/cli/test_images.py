"""Names of images and the choice of a prepare image."""

from __future__ import annotations

import pytest

from lain_cli.images import PrepareKey, image, parse_tag, script_digest, short_version, version_time

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_image_names() -> None:
    assert image("hello", "release", f"5-{COMMIT}") == f"hello:release-5-{COMMIT}"
    assert image("hello", "build", None) == "hello:build"
    assert image("hello", "meta", "5-a", "r:5000") == "r:5000/hello:meta-5-a"


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("meta-123-abc", ("meta", "123-abc")),
        ("release-123-abc", ("release", "123-abc")),
        ("release-123.5-abc", ("release", "123.5-abc")),
        ("meta-5-a-dirty", ("meta", "5-a-dirty")),
        ("meta-", None),
        ("fake-1--a", None),
        ("prepare-1-2", None),
        ("meta", None),
    ],
)
def test_tags(tag: str, expected: tuple[str, str] | None) -> None:
    assert parse_tag(tag) == expected


def test_versions_for_people() -> None:
    assert short_version(f"1500000000-{COMMIT}") == "1500000000-0123456"
    assert short_version(f"1500000000-{COMMIT}-dirty") == "1500000000-0123456-dirty"
    assert short_version("odd") == "odd"
    assert version_time("15.5-a") == 15.5 and version_time("odd") == 0


def test_a_prepare_image_of_a_version_is_found_by_it_newest_first() -> None:
    key = PrepareKey("3")
    assert key.tag(100) == "prepare-3-100"
    assert (
        key.newest(["prepare-3-100", "prepare-3-99", "prepare-33-500", "prepare-4-500", "release-3-600"])
        == "prepare-3-100"
    )
    assert key.newest(["prepare-4-1"]) is None


def test_without_a_version_base_and_script_are_the_key() -> None:
    script = script_digest("b:1", ("pip install x",))
    key = PrepareKey(None, "0123456789", script)
    tag = key.tag(100)
    assert tag == f"prepare-100-0123456789-{script}" and len(script) == 16
    assert key.newest([tag, key.tag(200)]) == key.tag(200)
    assert PrepareKey(None, "0123456789", script_digest("b:2", ("pip install x",))).newest([tag]) is None
    assert PrepareKey(None, "0123456789", script_digest("b:1", ("pip install y",))).newest([tag]) is None
    assert PrepareKey(None, "9999999999", script).newest([tag]) is None
