"""``EtcdStore``: the ``Store`` protocol over etcd's v3 API.

Why our own: no published asyncio client keeps a watch whole over a restart of its member (measured; see ``docs/architecture.md``). This
one speaks gRPC through ``etcd_channel`` (members, deadlines, retries, errors) and ``etcd_watch`` (the lossless watch), nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lain_shared import etcd_proto, etcd_watch
from lain_shared.errors import Compacted, Conflict, LainError, LeaseLost, NotFound
from lain_shared.etcd_channel import Lost, Member, Members, Refused
from lain_shared.etcd_lease import Renewals
from lain_shared.etcd_watch import range_end
from lain_shared.store import (
    Changes,
    CreateRevision,
    Delete,
    Entry,
    Exists,
    Expectation,
    Lease,
    Listing,
    ModRevision,
    Put,
    Write,
)

PAGE = 1_000
"""Keys read in one answer; a longer list is read in pages, all at one revision."""
LIST_ATTEMPTS = 3
STATUS_SECONDS = 2.0
"""How long a member may take to say how it is."""

EQUAL, GREATER = 0, 1
CREATE, MOD = 1, 2


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One answer of etcd's maintenance API. ``leader``: it is the one. ``errors``: alarms, in etcd's words."""

    version: str
    revision: int
    db_bytes: int
    db_used_bytes: int
    has_leader: bool
    leader: bool
    errors: tuple[str, ...]


class EtcdStore:
    """``Store`` over etcd. Made by ``connect``."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._renewals = Renewals(members)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, endpoints: Sequence[str], *, tls_dir: Path | None = None, timeout_seconds: float = 5.0
    ) -> AsyncIterator[EtcdStore]:
        """A store on these ``host:port`` endpoints, each call bounded by ``timeout_seconds``.

        ``tls_dir`` holds ``ca.pem``, ``cert.pem`` and ``key.pem``; the certificate's common name is the etcd user. Connecting is lazy: a
        cluster that is away shows in the first call (``Unavailable``), never here.
        """
        async with Members(endpoints, tls_dir=tls_dir, timeout_seconds=timeout_seconds) as members:
            store = cls(members)
            try:
                yield store
            finally:
                store._renewals.close()

    @property
    def members(self) -> Members:
        """For the other halves of etcd's API (``etcd_auth``)."""
        return self._members

    @property
    def where(self) -> str:
        return self._members.where

    # --- reading ------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> Entry | None:
        answer = await self._members.read("/etcdserverpb.KV/Range", etcd_proto.RangeRequest(key=_bytes(key)))
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Listing:
        for attempt in range(LIST_ATTEMPTS):
            try:
                return await self._list(prefix)
            except Compacted:  # between two pages; a new list starts from now
                if attempt == LIST_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def _list(self, prefix: str) -> Listing:
        start, end = _range(prefix)
        revision = 0
        entries: list[Entry] = []
        while True:
            request = etcd_proto.RangeRequest(key=start, range_end=end, limit=PAGE, revision=revision)
            answer = await self._members.read("/etcdserverpb.KV/Range", request)
            revision = revision or answer.header.revision
            entries += [_entry(kv) for kv in answer.kvs]
            if not answer.more:
                return Listing(revision, tuple(entries))
            start = answer.kvs[-1].key + b"\0"

    async def list_since(self, prefix: str, revision: int) -> tuple[Listing, int]:
        start, end = _range(prefix)
        request = etcd_proto.RangeRequest(key=start, range_end=end, min_mod_revision=revision + 1)
        answer = await self._members.read("/etcdserverpb.KV/Range", request)
        return Listing(answer.header.revision, tuple(_entry(kv) for kv in answer.kvs)), answer.count

    # --- writing ------------------------------------------------------------------------------------------------------

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: int = 0) -> int:
        if expect is not None:
            return await self.txn([ModRevision(key, expect)], [Put(key, value, lease)])
        request = etcd_proto.PutRequest(key=_bytes(key), value=value, lease=lease)
        answer = await self._members.write("/etcdserverpb.KV/Put", request)
        return int(answer.header.revision)

    async def delete(self, key: str, *, expect: int | None = None) -> bool:
        if expect is not None:
            await self.txn([ModRevision(key, expect)], [Delete(key)])
            return expect != 0
        answer = await self._members.write(
            "/etcdserverpb.KV/DeleteRange", etcd_proto.DeleteRangeRequest(key=_bytes(key))
        )
        return bool(answer.deleted)

    async def txn(self, expect: Sequence[Expectation], writes: Sequence[Write]) -> int:
        request = etcd_proto.TxnRequest(
            compare=[_compare(expectation) for expectation in expect],
            success=[_operation(write) for write in writes],
            failure=[_look(expectation.key) for expectation in expect],
        )
        answer = await self._members.write("/etcdserverpb.KV/Txn", request)
        if answer.succeeded:
            return int(answer.header.revision)
        for expectation, looked in zip(expect, answer.responses, strict=True):
            found = looked.response_range.kvs[0] if looked.response_range.kvs else None
            if not _holds(expectation, found):
                raise Conflict(f"{expectation.key} is not as expected", evidence={"key": expectation.key})
        raise Conflict("the store is not as expected")

    # --- watching -----------------------------------------------------------------------------------------------------

    def watch(self, prefix: str, *, start_revision: int) -> AsyncGenerator[Changes, None]:
        return etcd_watch.watch(self._members, prefix, start_revision)

    # --- leases -------------------------------------------------------------------------------------------------------

    async def grant(self, ttl_seconds: int, *, lease_id: int = 0) -> Lease:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        request = etcd_proto.LeaseGrantRequest(TTL=ttl_seconds, ID=lease_id)
        # a lease granted twice by a repeated request runs out by itself; one with a chosen id must not be asked for again
        call = self._members.write if lease_id else self._members.read
        answer = await call("/etcdserverpb.Lease/LeaseGrant", request)
        return Lease(answer.ID, answer.TTL - (loop.time() - sent))

    async def keep_alive(self, lease_id: int) -> float:
        return await self._renewals.renew(lease_id)

    async def revoke(self, lease_id: int) -> None:
        try:
            await self._members.read("/etcdserverpb.Lease/LeaseRevoke", etcd_proto.LeaseRevokeRequest(ID=lease_id))
        except (LeaseLost, NotFound):
            return

    # --- looking after the store --------------------------------------------------------------------------------------

    async def compact(self, revision: int) -> None:
        """Forget history below ``revision``. Already forgotten is success."""
        try:
            await self._members.read(
                "/etcdserverpb.KV/Compact", etcd_proto.CompactionRequest(revision=revision, physical=True)
            )
        except Compacted:
            return

    async def statuses(self) -> Mapping[str, MemberStatus | str]:
        """Endpoint → how that member of the cluster is doing, or why it does not say. Never raises for a member that is away."""
        answers = await asyncio.gather(*(self._status_of(member) for member in self._members.each()))
        return {member.endpoint: answer for member, answer in zip(self._members.each(), answers, strict=True)}

    async def _status_of(self, member: Member) -> MemberStatus | str:
        try:
            answer = await member.call("/etcdserverpb.Maintenance/Status", etcd_proto.StatusRequest(), STATUS_SECONDS)
        except (Refused, Lost, LainError) as error:
            return str(error) or type(error).__name__
        return MemberStatus(
            version=answer.version,
            revision=answer.header.revision,
            db_bytes=answer.dbSize,
            db_used_bytes=answer.dbSizeInUse,
            has_leader=bool(answer.leader),
            leader=bool(answer.leader) and answer.leader == answer.header.member_id,
            errors=tuple(answer.errors),
        )


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def _range(prefix: str) -> tuple[bytes, bytes]:
    return _bytes(prefix) or b"\0", range_end(_bytes(prefix))


def _entry(kv: Any) -> Entry:
    return Entry(kv.key.decode("utf-8", "surrogateescape"), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _compare(expectation: Expectation) -> Any:
    key = _bytes(expectation.key)
    match expectation:
        case ModRevision(_, revision):
            return etcd_proto.Compare(key=key, target=MOD, result=EQUAL, mod_revision=revision)
        case CreateRevision(_, revision):
            return etcd_proto.Compare(key=key, target=CREATE, result=EQUAL, create_revision=revision)
        case Exists():
            return etcd_proto.Compare(key=key, target=CREATE, result=GREATER, create_revision=0)


def _holds(expectation: Expectation, found: Any | None) -> bool:
    match expectation:
        case ModRevision(_, revision):
            return bool((found.mod_revision if found else 0) == revision)
        case CreateRevision(_, revision):
            return bool((found.create_revision if found else 0) == revision)
        case Exists():
            return found is not None


def _operation(write: Write) -> Any:
    if isinstance(write, Put):
        put = etcd_proto.PutRequest(key=_bytes(write.key), value=write.value, lease=write.lease)
        return etcd_proto.RequestOp(request_put=put)
    return etcd_proto.RequestOp(request_delete_range=etcd_proto.DeleteRangeRequest(key=_bytes(write.key)))


def _look(key: str) -> Any:
    return etcd_proto.RequestOp(request_range=etcd_proto.RangeRequest(key=_bytes(key), keys_only=True))
