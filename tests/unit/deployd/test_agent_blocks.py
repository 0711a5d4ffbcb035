"""A node's address block: claimed once, and watched over: what takes the claim away would give one address to two pods."""

from __future__ import annotations

import pytest

from lain_deployd.agent.blocks import Blocks, NoBlock
from lain_deployd.testing import FakeEngine
from lain_shared import keys
from lain_shared.model.node import Block
from lain_shared.records import Records
from lain_shared.testing import MemoryStore

NETWORK, BLOCK = "172.20.0.0/16", "172.20.1.0/24"


async def test_a_claim_that_is_gone_is_made_again() -> None:
    store = MemoryStore()
    blocks, records = Blocks(store, FakeEngine(), "n1"), Records(store, keys.BLOCKS, Block)
    assert await blocks.ensure(NETWORK) == BLOCK and blocks.network_ready
    await records.delete(BLOCK)
    assert await blocks.ensure(NETWORK) == BLOCK
    stored = await records.get(BLOCK)
    assert stored is not None and stored.value.node == "n1"


async def test_a_claim_that_somebody_else_took_ends_the_giving_out_of_addresses() -> None:
    store = MemoryStore()
    blocks, records = Blocks(store, FakeEngine(), "n1"), Records(store, keys.BLOCKS, Block)
    await blocks.ensure(NETWORK)
    await records.put(Block(BLOCK, "n9"), BLOCK)
    with pytest.raises(NoBlock, match="belongs to node n9"):
        await blocks.ensure(NETWORK)
    assert not blocks.network_ready
    await records.put(Block(BLOCK, "n1"), BLOCK)
    assert await blocks.ensure(NETWORK) == BLOCK and blocks.network_ready


async def test_with_the_store_away_the_block_is_what_it_was() -> None:
    store = MemoryStore()
    blocks = Blocks(store, FakeEngine(), "n1")
    await blocks.ensure(NETWORK)
    with store.outage():
        assert await blocks.ensure(NETWORK) == BLOCK and blocks.network_ready
