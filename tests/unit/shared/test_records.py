"""Whatever bytes stand in the store: a reader says that it cannot read them, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_shared import keys
from lain_shared.mirror import Mirror
from lain_shared.model.node import Node
from lain_shared.records import BadRecord, Records
from lain_shared.store import Entry, Listing
from lain_shared.testing import MemoryStore

DEEP = b'{"v":1,"name":"n","address":"a","more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
NOT_TEXT = b'{"v":1,"name":"\xff","address":"a"}'


@pytest.mark.parametrize("value", [DEEP, NOT_TEXT, b"", b"\xff", b"null", b'{"v":null}', b"[" * 100_000])
@pytest.mark.parametrize("kind", [Node, dict[str, Any]])
async def test_what_is_no_document_is_a_bad_record_and_nothing_worse(value: bytes, kind: type[Any]) -> None:
    store = MemoryStore()
    records = Records(store, keys.NODES, kind)
    await store.put(keys.NODES.key("bad"), value)
    await store.put(keys.NODES.key("good"), b'{"v":1,"name":"good","address":"a"}')
    with pytest.raises(BadRecord):
        await records.get("bad")
    found, bad = await records.list_readable()
    assert len(found) == 1 and list(bad) == [keys.NODES.key("bad")]
    mirror = Mirror(records)
    await mirror.catch_up()
    assert list(mirror.snapshot()) == [keys.NODES.key("good")] and list(mirror.bad) == [keys.NODES.key("bad")]


@given(st.binary(), st.binary())
def test_no_key_and_no_value_ends_a_mirror(name: bytes, value: bytes) -> None:
    mirror = Mirror(Records(MemoryStore(), keys.NODES, Node))
    key = keys.NODES.prefix + name.decode("utf-8", "surrogateescape")
    mirror._take(Listing(5, (Entry(key, value, 1, 1),)), 0)
    assert mirror.ready
