"""Renewals of leases, over streams that stand: with a stream of its own each would cost twice as much, here and in etcd.

A leader renews its lease every half second for as long as it lives.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from lain_shared import etcd_proto
from lain_shared.errors import LainError, LeaseLost
from lain_shared.etcd_channel import Lost, Member, Members, Refused, fault_of, pause_after
from lain_shared.etcd_grpc import grpc

RENEW_SECONDS = 2.0
"""How long one renewal is tried; a lease's owner tries again as long as the lease lives."""
ATTEMPT_SECONDS = 0.5
METHOD = "/etcdserverpb.Lease/LeaseKeepAlive"


@dataclass(slots=True)
class _Stream:
    """One stream to a member, used for one renewal at a time."""

    member: Member
    connection: int
    call: Any

    @property
    def stands(self) -> bool:
        return self.connection == self.member.connection and not self.call.done()


class Renewals:
    """``renew`` leases of one client. ``close`` ends the streams."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._idle: list[_Stream] = []

    def close(self) -> None:
        while self._idle:
            self._idle.pop().call.cancel()

    async def renew(self, lease_id: int) -> float:
        """Seconds it is good for, counted from when the answer is here. ``LeaseLost``: it is gone. ``Unavailable``: nobody answered."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + RENEW_SECONDS
        attempts = 0
        while True:
            try:
                return await self._attempt(lease_id, ATTEMPT_SECONDS * (1 + attempts / 2))
            except (Refused, Lost) as fault:
                attempts += 1
                pause = pause_after(attempts)
                if loop.time() + pause >= deadline:
                    raise self._members.unavailable(fault) from fault
                await asyncio.sleep(pause)

    async def _attempt(self, lease_id: int, seconds: float) -> float:
        while self._idle:
            standing = self._idle.pop()
            if not standing.stands:
                standing.call.cancel()
                continue
            try:
                return await self._ask(standing, lease_id, seconds)
            except (Refused, Lost):
                break  # it has ended since, as when its member was restarted: that says nothing of a new one
        member = self._members.pick()
        try:
            await member.connect(seconds)
        except Refused as fault:
            member.avoid(fault)
            raise
        call = member.stream(METHOD, "LeaseKeepAliveRequest", "LeaseKeepAliveResponse")
        fresh = _Stream(member, member.connection, call)
        try:
            return await self._ask(fresh, lease_id, seconds)
        except (Refused, Lost) as fault:
            member.avoid(fault)
            raise

    async def _ask(self, stream: _Stream, lease_id: int, seconds: float) -> float:
        loop = asyncio.get_running_loop()
        sent = loop.time()
        try:
            async with asyncio.timeout(seconds):
                await stream.call.write(etcd_proto.LeaseKeepAliveRequest(ID=lease_id))
                answer = await stream.call.read()
        except TimeoutError:
            stream.call.cancel()
            fault = Lost(f"{stream.member.endpoint} gave no answer within {seconds:g} s")
            stream.member.avoid(fault)
            raise fault from None
        except grpc.aio.AioRpcError as error:
            cause = fault_of(error)
            if isinstance(cause, LainError):
                stream.member.heard()
            raise cause from error
        except asyncio.InvalidStateError as error:
            raise Lost("the stream had ended") from error
        except asyncio.CancelledError:
            stream.call.cancel()
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            raise Lost(
                "the connection was closed meanwhile"
            ) from None  # gRPC tells its own cancellations in the same way
        if answer is grpc.aio.EOF:
            raise Lost("the stream ended")
        stream.member.heard()
        self._idle.append(stream)
        if answer.TTL <= 0:
            raise LeaseLost(f"lease {lease_id:x} is gone")
        return float(answer.TTL) - (loop.time() - sent)
