"""What ``lain scale`` set, taken back while its app is out of service: one write, which nobody's change is lost by."""

from __future__ import annotations

import pytest

from lain_console.procs import Procs, Scaling
from lain_shared import keys
from lain_shared.errors import Conflict
from lain_shared.testing import MemoryStore
from tests.unit.console.builders import Bench

SET = {"web": {"instances": 3}}


class Overtaken(MemoryStore):
    """Somebody else writes the app just before each write of it that expects it as it was read."""

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        if expect is not None and key.startswith(keys.APPS.prefix):
            entry = await self.get(key)
            assert entry is not None
            await super().put(key, entry.value)
        return await super().put(key, value, expect=expect, lease=lease)


@pytest.mark.parametrize("overtaken", [True, False])
async def test_a_reset_of_an_app_out_of_service(overtaken: bool) -> None:
    bench = Bench(Overtaken() if overtaken else MemoryStore())
    await bench.register(overrides=SET)
    procs = Procs(bench.state, (await bench.console()).starter)
    if not overtaken:
        assert (await procs.scale("hello", "web", Scaling(reset=True), "ann")).operation is None
        assert (await bench.app()).overrides == {}
        return
    with pytest.raises(Conflict, match="hello was changed meanwhile") as told:
        await procs.scale("hello", "web", Scaling(reset=True), "ann")
    assert told.value.why and told.value.next == "try again"
    assert (await bench.app()).overrides == SET
