"""What apps may go back to is known for certain, or nothing is removed."""

from __future__ import annotations

from lain_deployd.agent.kept import Kept
from lain_shared import keys
from lain_shared.errors import Unavailable
from lain_shared.model.image import KeptImages
from lain_shared.records import Records
from lain_shared.store import Listing
from lain_shared.testing import MemoryStore


async def test_the_images_of_every_app_as_the_engine_names_them() -> None:
    store = MemoryStore()
    records = Records(store, keys.KEPT_IMAGES, KeptImages)
    assert await Kept(store, "r:5000").read() == frozenset()
    await records.put(KeptImages("hello", 1, ("hello@sha256:1", "base@sha256:2")), "hello", 1)
    await records.put(KeptImages("other", 2, ("base@sha256:2",)), "other", 2)
    assert await Kept(store, "r:5000").read() == {"r:5000/hello@sha256:1", "r:5000/base@sha256:2"}
    assert await Kept(store, "").read() == {"hello@sha256:1", "base@sha256:2"}


async def test_one_record_that_cannot_be_read_may_name_any_image() -> None:
    store = MemoryStore()
    await Records(store, keys.KEPT_IMAGES, KeptImages).put(KeptImages("hello", 1, ("a@sha256:1",)), "hello", 1)
    await store.put(keys.KEPT_IMAGES.key("hello", 2), b'{"v":99}')
    kept = Kept(store, "")
    assert await kept.read() is None
    assert list(kept.bad) == [keys.KEPT_IMAGES.key("hello", 2)]
    await store.delete(keys.KEPT_IMAGES.key("hello", 2))
    assert await kept.read() == {"a@sha256:1"} and not kept.bad


async def test_a_console_of_before_there_were_records_keeps_all_it_does_not_name() -> None:
    """It writes none, or, gone back to for a while, none of its newest release."""
    store = MemoryStore()
    records = Records(store, keys.KEPT_IMAGES, KeptImages)
    kept = Kept(store, "r:5000")
    assert await kept.read(frozenset({"r:5000/hello@sha256:2"})) is None
    await records.put(KeptImages("hello", 1, ("hello@sha256:1",)), "hello", 1)
    assert await kept.read(frozenset({"r:5000/hello@sha256:2"})) is None
    await records.put(KeptImages("hello", 2, ("hello@sha256:2",)), "hello", 2)
    assert await kept.read(frozenset({"r:5000/hello@sha256:2"})) == {"r:5000/hello@sha256:1", "r:5000/hello@sha256:2"}


class Away(MemoryStore):
    """A store that answers nothing."""

    async def list(self, prefix: str) -> Listing:
        raise Unavailable("etcd does not answer")


async def test_without_the_store_nobody_knows() -> None:
    assert await Kept(Away(), "").read() is None
