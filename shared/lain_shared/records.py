"""A key family read and written as nouns: JSON with a schema version in, frozen dataclasses out.

A document is ``{"v": <version>, …fields}``. Readers accept the family's version and the one before it (every field added later
has a default); a newer one raises ``UnknownVersion`` and is reported, never deleted; unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from lain_shared.errors import LainError
from lain_shared.keys import Family
from lain_shared.store import Delete, Entry, Put, Store

T = TypeVar("T")


class BadRecord(LainError):
    """A stored document cannot be read."""

    code = "bad_record"


class UnknownVersion(BadRecord):
    """A stored document was written by a newer LAIN."""

    code = "unknown_version"


class _Versioned(msgspec.Struct):
    v: int = 0


def encode(record: object, version: int) -> bytes:
    """The document of ``record``: compact JSON whose first member is ``"v"``."""
    body = msgspec.json.encode(record)
    return b'{"v":%d%s%s' % (version, b"" if body == b"{}" else b",", body[1:])


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A noun together with the entry it was read from."""

    value: T
    entry: Entry


class Records(Generic[T]):
    """One family as nouns of one type."""

    def __init__(self, store: Store, family: Family, kind: type[T]) -> None:
        self.store = store
        self.family = family
        self.kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._version = msgspec.json.Decoder(_Versioned)

    def decode(self, key: str, value: bytes) -> T:
        """The noun in ``value``; ``BadRecord`` names the key, what was found and where."""
        try:
            version = self._version.decode(value).v
            if version > self.family.version:
                raise UnknownVersion(
                    f"{key} was written by a newer LAIN (document version {version}, this one reads up to {self.family.version})",
                    next="upgrade this daemon; the document was left as it is",
                )
            return self._decoder.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # no JSON, no text, too deep
            raise BadRecord(f"{key} does not hold a {self.kind.__name__}", why=str(error)) from error

    def encode(self, record: T) -> bytes:
        return encode(record, self.family.version)

    async def get(self, *parts: str | int) -> Stored[T] | None:
        entry = await self.store.get(self.family.key(*parts))
        return None if entry is None else Stored(self.decode(entry.key, entry.value), entry)

    async def list(self, *parts: str | int) -> tuple[Stored[T], ...]:
        """Every record under these first parts. One bad record raises ``BadRecord``: to go on around it, ``list_readable``."""
        listing = await self.store.list(self.family.under(*parts))
        return tuple(Stored(self.decode(entry.key, entry.value), entry) for entry in listing.entries)

    async def list_readable(self, *parts: str | int) -> tuple[tuple[Stored[T], ...], Mapping[str, str]]:
        """The records under these first parts that can be read; and key → why, of those that cannot: they are there all the same."""
        listing = await self.store.list(self.family.under(*parts))
        found: list[Stored[T]] = []
        bad: dict[str, str] = {}
        for entry in listing.entries:
            try:
                found.append(Stored(self.decode(entry.key, entry.value), entry))
            except BadRecord as error:
                bad[entry.key] = f"{error.message}: {error.why}" if error.why else error.message
        return tuple(found), bad

    async def put(self, record: T, *parts: str | int, expect: int | None = None, lease: int = 0) -> int:
        return await self.store.put(self.family.key(*parts), self.encode(record), expect=expect, lease=lease)

    async def delete(self, *parts: str | int, expect: int | None = None) -> bool:
        return await self.store.delete(self.family.key(*parts), expect=expect)

    def put_op(self, record: T, *parts: str | int, lease: int = 0) -> Put:
        """The write of ``record``, for a transaction."""
        return Put(self.family.key(*parts), self.encode(record), lease)

    def delete_op(self, *parts: str | int) -> Delete:
        return Delete(self.family.key(*parts))
