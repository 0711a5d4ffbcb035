"""A watch on etcd that loses nothing and repeats nothing, whatever becomes of members and connections.

The rules: resume at the last delivered revision + 1; take the start from the ``created`` answer when none was given; drop what lies below
it; a progress notification proves life and never moves the resume point (etcd 3.4 may send one ahead of events); history that is gone is
``Compacted``, and the caller lists again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog

from lain_shared import etcd_proto
from lain_shared.errors import Compacted
from lain_shared.etcd_channel import Lost, Member, Members, Refused, fault_from, fault_of, pause_after
from lain_shared.etcd_grpc import grpc
from lain_shared.store import Change, Changes

log = structlog.get_logger()

CREATE_SECONDS = 3.0
"""How long a member may take to set a watch up."""
PROGRESS_SECONDS = 3.0
"""After this much silence of its whole connection a stream asks the member for a sign of life."""
STREAM_SECONDS = 10.0
"""After this much of its own it asks though other calls on the connection are answered: a daemon has many watches, and one member."""
ANSWER_SECONDS = 5.0
"""A stream that was asked and said nothing for so long is given up, and another member asked."""
DELETE = 1


def range_end(prefix: bytes) -> bytes:
    """The key just after every key that starts with ``prefix``."""
    end = bytearray(prefix)
    while end:
        if end[-1] < 0xFF:
            end[-1] += 1
            return bytes(end)
        end.pop()
    return b"\0"


async def watch(members: Members, prefix: str, start_revision: int) -> AsyncGenerator[Changes, None]:
    """See ``Store.watch``. Raises ``Compacted``, ``Denied``, ``Unauthenticated``; everything else is reconnected."""
    upcoming = start_revision
    failures = 0
    while True:
        member = members.pick()
        try:
            async with aclosing(_one_stream(members, member, prefix, upcoming)) as batches:
                async for batch in batches:
                    failures = 0
                    upcoming = batch.revision + 1
                    yield batch
        except (Refused, Lost) as fault:
            member.avoid(fault)
            log.debug("watch_broken", prefix=prefix, endpoint=member.endpoint, resume_revision=upcoming, why=str(fault))
        failures += 1
        await asyncio.sleep(pause_after(failures))


async def _one_stream(
    members: Members, member: Member, prefix: str, start_revision: int
) -> AsyncGenerator[Changes, None]:
    """The changes one stream delivers until it breaks (``Refused`` or ``Lost``)."""
    upcoming = start_revision
    key = prefix.encode("utf-8", "surrogateescape") or b"\0"
    end = range_end(prefix.encode("utf-8", "surrogateescape"))
    await member.connect(CREATE_SECONDS)
    call = member.stream("/etcdserverpb.Watch/Watch", "WatchRequest", "WatchResponse")
    try:
        create = etcd_proto.WatchCreateRequest(key=key, range_end=end, start_revision=upcoming, progress_notify=True)
        await _send(call, etcd_proto.WatchRequest(create_request=create))
        async with aclosing(_answers(call, member)) as answers:
            async for answer in answers:
                member.heard()
                if answer.compact_revision:
                    raise Compacted(
                        f"history before revision {answer.compact_revision} is gone, {upcoming} was asked for"
                    )
                if answer.canceled:
                    raise fault_from(grpc.StatusCode.UNAVAILABLE, answer.cancel_reason)
                if answer.created:
                    upcoming = upcoming or answer.header.revision + 1
                    await _require_history(members, key, end, upcoming - 1)
                    yield Changes(upcoming - 1, ())
                    continue
                items = tuple(_change(event) for event in answer.events if event.kv.mod_revision >= upcoming)
                if items:
                    upcoming = items[-1].revision + 1
                yield Changes(upcoming - 1, items)
    except grpc.aio.AioRpcError as error:
        raise fault_of(error) from error
    except asyncio.InvalidStateError as error:
        raise Lost("the stream had ended") from error
    finally:
        call.cancel()


async def _require_history(members: Members, key: bytes, end: bytes, revision: int) -> None:
    """``Compacted`` unless etcd still has ``revision``.

    etcd before 3.4.36 and 3.5.19 silently drops a deletion that *is* the compacted revision when a watch starts exactly there; and a
    store restored from a backup would let a watch wait for a revision that is years away.
    """
    if revision > 0:
        request = etcd_proto.RangeRequest(key=key, range_end=end, revision=revision, limit=1, keys_only=True)
        await members.read("/etcdserverpb.KV/Range", request)


async def _answers(
    call: Any,
    member: Member,
    *,
    progress_seconds: float = PROGRESS_SECONDS,
    stream_seconds: float = STREAM_SECONDS,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncGenerator[Any, None]:
    """Every answer on the stream; asks for a sign of life when there is none, and gives up (``Lost``) when that is not answered."""
    loop = asyncio.get_running_loop()
    connection, created = member.connection, False
    heard = loop.time()
    while True:
        asked: float | None = None
        reader = asyncio.ensure_future(call.read())
        try:
            while True:
                if not created:
                    due = heard + CREATE_SECONDS
                elif asked is not None:
                    due = asked + answer_seconds
                else:
                    due = min(heard + stream_seconds, max(heard, member.heard_on(connection)) + progress_seconds)
                left = due - loop.time()
                if left > 0:
                    if (await asyncio.wait({reader}, timeout=left))[0]:
                        break
                elif asked is not None or not created:
                    raise Lost("the member fell silent")
                else:
                    await _send(call, etcd_proto.WatchRequest(progress_request=etcd_proto.WatchProgressRequest()))
                    asked = loop.time()
        finally:
            if not reader.done():
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
        if reader.cancelled():  # by nobody here: its connection was replaced, and is closed
            raise Lost("the connection was closed")
        answer = reader.result()
        if answer is grpc.aio.EOF:
            raise fault_from(await call.code(), await call.details() or "the stream ended")
        heard, created = loop.time(), True
        yield answer


async def _send(call: Any, request: Any) -> None:
    try:
        async with asyncio.timeout(CREATE_SECONDS):
            await call.write(request)
    except TimeoutError:
        raise Lost("the member takes no more requests") from None


def _change(event: Any) -> Change:
    kv = event.kv
    key = kv.key.decode("utf-8", "surrogateescape")
    if event.type == DELETE:
        return Change(key, None, kv.mod_revision)
    return Change(key, kv.value, kv.mod_revision, kv.create_revision, kv.lease)
