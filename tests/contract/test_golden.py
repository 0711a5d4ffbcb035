"""Every document any released version wrote is read by this one; what a newer one wrote is reported, and never deleted."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lain_shared import keys
from lain_shared.mirror import Mirror
from lain_shared.records import BadRecord, Records, UnknownVersion
from lain_shared.testing import MemoryStore, eventually
from tests.contract.golden.kinds import KINDS, WITHOUT_RECORDS, Kind
from tests.fixtures.parts import running

GOLDEN = Path(__file__).parent / "golden"
DOCUMENTS = [
    pytest.param(kind, path, id=f"{path.parent.name}-{kind.name}")
    for kind in KINDS
    for path in sorted(GOLDEN.glob(f"*/{kind.name}.json"))
]
by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
by_document = pytest.mark.parametrize(("kind", "path"), DOCUMENTS)


def read(path: Path) -> tuple[str, dict[str, Any]]:
    held = json.loads(path.read_text())
    return held["key"], held["value"]


def without_defaulted(document: Any, of: Any) -> Any:
    """``document`` as a version would have written it that knew only the fields that must be there."""
    arguments = [one for one in typing.get_args(of) if one is not type(None)]
    if isinstance(document, dict) and dataclasses.is_dataclass(of):
        hints = typing.get_type_hints(of)
        return {
            field.name: without_defaulted(document[field.name], hints[field.name])
            for field in dataclasses.fields(of)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
    if isinstance(document, list):
        return [without_defaulted(item, arguments[0]) for item in document]
    if isinstance(document, dict) and len(arguments) == 2:
        return {key: without_defaulted(item, arguments[1]) for key, item in document.items()}
    return document


def test_every_family_that_is_written_today_has_a_golden_document() -> None:
    written = {family.name for family in keys.FAMILIES if set(family.writers) & set(keys.DAEMONS)}
    assert {kind.family.name for kind in KINDS} == written - WITHOUT_RECORDS


@by_kind
def test_each_version_of_a_family_has_one(kind: Kind) -> None:
    for version in {max(kind.family.version - 1, 1), kind.family.version}:
        assert (GOLDEN / str(version) / f"{kind.name}.json").exists(), "run: python -m tests.contract.golden.write"


@by_document
def test_a_golden_document_is_read_with_nothing_lost(kind: Kind, path: Path) -> None:
    key, document = read(path)
    records = Records(MemoryStore(), kind.family, kind.type)
    value = records.decode(key, msgspec.json.encode(document))
    again = json.loads(records.encode(value))
    lost = {name for name in document if name != "v" and again.get(name) != document[name]}
    assert not lost, f"read and written again, these members of {kind.name} differ"
    assert tuple(kind.family.parse(key)) == tuple(
        f"{part:010d}" if isinstance(part, int) else part for part in kind.parts
    )


@by_kind
def test_the_current_golden_document_has_every_field(kind: Kind) -> None:
    _, document = read(GOLDEN / str(kind.family.version) / f"{kind.name}.json")
    assert {field.name for field in dataclasses.fields(kind.type)} == document.keys() - {"v"}, (
        "run: python -m tests.contract.golden.write"
    )


@by_document
def test_a_document_of_before_a_field_was_added_is_read(kind: Kind, path: Path) -> None:
    key, document = read(path)
    records = Records(MemoryStore(), kind.family, kind.type)
    early = {"v": document["v"], **without_defaulted(document, kind.type)}
    records.decode(key, msgspec.json.encode(early))


@by_document
async def test_a_newer_document_is_reported_and_left_as_it_is(kind: Kind, path: Path) -> None:
    key, document = read(path)
    store = MemoryStore()
    records = Records(store, kind.family, kind.type)
    newer = msgspec.json.encode({**document, "v": kind.family.version + 1, "invented": {"later": True}})
    await store.put(key, newer)
    with pytest.raises(UnknownVersion) as error:
        records.decode(key, newer)
    assert key in error.value.message
    assert "upgrade" in error.value.next
    mirror = Mirror(records)
    async with running(mirror):
        await mirror.wait_whole()
        assert mirror.snapshot() == {}
        assert "newer" in mirror.bad[key]
    entry = await store.get(key)
    assert entry is not None
    assert entry.value == newer


@by_document
def test_an_unknown_member_is_ignored(kind: Kind, path: Path) -> None:
    key, document = read(path)
    records = Records(MemoryStore(), kind.family, kind.type)
    more = msgspec.json.encode({**document, "added_by_a_sister": 1})
    assert records.decode(key, more) == records.decode(key, msgspec.json.encode(document))


@by_kind
def test_what_is_no_document_is_named(kind: Kind) -> None:
    records = Records(MemoryStore(), kind.family, kind.type)
    for value in (b"", b"{", b"[]", b'"x"', b'{"v":1}', b"\xff\xfe", b'{"v":"1"}'):
        with pytest.raises(BadRecord) as error:
            records.decode("/lain/some/key", value)
        assert "/lain/some/key" in error.value.message


async def test_a_record_that_turns_newer_keeps_its_last_good_value() -> None:
    store = MemoryStore()
    kind = next(kind for kind in KINDS if kind.name == "nodes")
    records = Records(store, kind.family, kind.type)
    key, document = read(GOLDEN / "1" / "nodes.json")
    await store.put(key, msgspec.json.encode(document))
    mirror = Mirror(records)
    async with running(mirror):
        await mirror.wait_whole()
        good = mirror.snapshot()
        await store.put(key, msgspec.json.encode({**document, "v": 2}))
        await eventually(lambda: mirror.bad, what="the newer document is reported")
        assert mirror.snapshot() == good
        await store.put(key, msgspec.json.encode({**document, "cordoned": False}))
        await eventually(lambda: not mirror.bad, what="the good document is taken")
        assert mirror.snapshot()[key].value.cordoned is False
