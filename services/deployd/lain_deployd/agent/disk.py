"""The agent's last good picture, on disk: what it starts from when etcd is away, and what no container can tell it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import msgspec
import structlog

from lain_deployd.agent.addresses import AddressBook
from lain_deployd.agent.pods import Health, Memory, Order
from lain_shared.model.pod import PodId

log = structlog.get_logger()

VERSION = 1


@dataclass(frozen=True, slots=True)
class Saved:
    """One document. Every field has a default: an older agent's file is readable."""

    version: int = VERSION
    orders: tuple[Order, ...] = ()
    memory: Mapping[str, Memory] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    addresses: AddressBook = field(default_factory=AddressBook)
    volumes: tuple[str, ...] = ()
    """Instances known to have data on this node."""
    images: Mapping[str, float] = field(default_factory=dict)
    """Images the agent itself brought → when they were last needed."""
    engine_id: str = ""
    engine_since: float = 0.0
    last_event_nano: int = 0
    last_event: str = ""
    """The last Engine event that was seen: if the Engine no longer knows it, it is another process."""


class Disk:
    """A file that is replaced as a whole, or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self._lock = asyncio.Lock()

    def load(self) -> Saved | None:
        """What was saved last; None when there is nothing (readable)."""
        try:
            self._written = self._path.read_bytes()
            saved = msgspec.json.decode(self._written, type=Saved)
            for name in (*saved.memory, *saved.health):
                PodId.parse(name)
            if saved.addresses.block:
                IPv4Network(saved.addresses.block)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            log.error("agent_state_unreadable", file=str(self._path), error=str(error))
            return None
        if saved.version > VERSION:
            log.error("agent_state_of_a_newer_agent", file=str(self._path), version=saved.version)
            return None
        return saved

    async def save(self, saved: Saved) -> None:
        """Replace the file if ``saved`` differs from what it holds."""
        async with self._lock:
            document = msgspec.json.encode(saved)
            if document != self._written:
                await asyncio.to_thread(self._replace, document)
                self._written = document

    def _replace(self, document: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(self._path.name + ".new")
        with new.open("wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
