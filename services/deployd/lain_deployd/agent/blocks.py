"""This node's address block: claimed once, never leased, and the one bridge network made on it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

import structlog

from lain_deployd.agent.engine import Engine
from lain_deployd.agent.spec import BRIDGE, NETWORK
from lain_shared import keys
from lain_shared.errors import Conflict, LainError, Unavailable
from lain_shared.model.node import Block
from lain_shared.records import Records
from lain_shared.store import ABSENT, Store

log = structlog.get_logger()

PREFIX_LENGTH = 24


class NoBlock(LainError):
    """This node has no address block, and cannot have one."""

    code = "no_address_block"


def candidates(pod_network: str, taken: Iterable[str]) -> list[str]:
    """The free /24s of the pod network in the order to try them; its very first comes last (it looks like a network's own address)."""
    network = IPv4Network(pod_network)
    blocks = list(network.subnets(new_prefix=max(PREFIX_LENGTH, network.prefixlen)))
    others = [IPv4Network(block) for block in taken]
    free = [str(block) for block in blocks if not any(block.overlaps(other) for other in others)]
    return free[1:] + free[:1] if free and free[0] == str(blocks[0]) and len(free) > 1 else free


class Blocks:
    """Claims the block of ``node`` and keeps its network. ``remembered`` is the block known from the disk."""

    def __init__(self, store: Store, engine: Engine, node: str, *, wanted: str = "", remembered: str = "") -> None:
        self._records = Records(store, keys.BLOCKS, Block)
        self._engine = engine
        self._node = node
        self._wanted = wanted
        self.block = remembered
        self.network_ready = False
        self._confirmed = False

    async def ensure(self, pod_network: str | None) -> str:
        """This node's block, with its network there. ``pod_network`` None: not known, so only a known block will do."""
        if self._confirmed:
            await self._keep()
        elif pod_network is not None:
            self.block = await self._claim(pod_network)
            self._confirmed = True
        if not self.block:
            raise NoBlock("this node has no address block yet", why="the cluster's pod network is not known")
        try:
            await self._engine.ensure_network(NETWORK, self.block, BRIDGE)
        except LainError:
            self.network_ready = False
            raise
        self.network_ready = True
        return self.block

    async def _keep(self) -> None:
        """See that the claim still stands: without it another node would take the block, and give the same addresses to its pods.

        Claimed anew if it is gone; ``NoBlock`` when it is somebody else's now. With the store away, it is what it was.
        """
        try:
            stored = await self._records.get(self.block)
            if stored is None:
                await self._records.put(Block(self.block, self._node), self.block, expect=ABSENT)
                log.warning("block_claimed_anew", block=self.block)
        except (Unavailable, Conflict):
            return
        if stored is not None and stored.value.node != self._node:
            self.network_ready = False
            raise NoBlock(
                f"this node's address block {self.block} belongs to node {stored.value.node} now",
                why="its key in blocks/ was written by somebody else: two nodes would give out the same addresses",
                next=f"find out which of the two is to have it, and remove the other: lainctl node inspect {stored.value.node}",
            )

    async def _claim(self, pod_network: str) -> str:
        while True:
            claimed = [stored.value for stored in await self._records.list()]
            mine = sorted(one.block for one in claimed if one.node == self._node)
            if self._wanted:
                if self._wanted in mine:
                    return self._wanted
                owner = next((one.node for one in claimed if one.block == self._wanted), None)
                if owner is not None:
                    raise NoBlock(
                        f"block {self._wanted} belongs to node {owner}",
                        next="unset LAIN_AGENT_BLOCK, or choose another",
                    )
                choice = self._wanted
            elif mine:
                return self.block if self.block in mine else mine[0]
            else:
                free = candidates(pod_network, (one.block for one in claimed))
                if not free:
                    raise NoBlock(f"every block of {pod_network} is taken", evidence={"taken": len(claimed)})
                choice = self.block if self.block in free else free[0]  # its network and its pods have it
            try:
                await self._records.put(Block(choice, self._node), choice, expect=ABSENT)
            except Conflict:
                continue  # another node was faster: look again
            log.info("block_claimed", block=choice)
            return choice
