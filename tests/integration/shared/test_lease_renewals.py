"""Renewals on real etcd: a stream stands for many of them, and whatever became of it, a lease that lives is renewed."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request

import pytest

from lain_shared.errors import LeaseLost, Unavailable
from lain_shared.etcd import EtcdStore
from tests.fixtures.etcd import Cluster, Member


def streams_begun(member: Member) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{member.health_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = re.search(r'grpc_server_started_total\{grpc_method="LeaseKeepAlive",[^}]*\} (\d+)', text)
    return int(found[1]) if found else 0


async def begun(member: Member) -> int:
    return await asyncio.to_thread(streams_begun, member)


async def test_many_renewals_take_one_stream_and_two_at_once_take_two(etcd_single: Cluster) -> None:
    member = etcd_single.members[0]
    async with EtcdStore.connect(etcd_single.endpoints) as store:
        leases = [await store.grant(60) for _ in range(2)]
        before = await begun(member)
        for _ in range(20):
            assert 0 < await store.keep_alive(leases[0].id) <= 60
        assert await begun(member) == before + 1
        await asyncio.gather(*(store.keep_alive(lease.id) for lease in leases))
        assert await begun(member) == before + 2
        await store.revoke(leases[1].id)
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await store.keep_alive(leases[1].id)
        assert await begun(member) == before + 2, "a lease that is gone is no fault of the stream"


async def test_a_member_that_was_restarted_renews_at_the_first_try(etcd_single: Cluster) -> None:
    member = etcd_single.members[0]
    async with EtcdStore.connect(etcd_single.endpoints) as store:
        lease = await store.grant(60)
        await store.keep_alive(lease.id)
        await asyncio.to_thread(member.kill)
        with pytest.raises(Unavailable):
            await store.keep_alive(lease.id)
        member.start()
        await asyncio.to_thread(member.wait_healthy)
        assert 0 < await store.keep_alive(lease.id) <= 60


async def test_a_member_that_hangs_costs_one_attempt_and_no_lease(etcd_cluster: Cluster) -> None:
    async with EtcdStore.connect(etcd_cluster.endpoints) as store:
        lease = await store.grant(60)
        for _ in range(6):
            await store.keep_alive(lease.id)
        for member in etcd_cluster.members:
            member.freeze()
            try:
                for _ in range(3):
                    began = time.monotonic()
                    try:
                        await store.keep_alive(lease.id)
                    except Unavailable:
                        continue  # the leader was frozen: the others elect another one meanwhile
                    assert time.monotonic() - began < 2.5
                assert 0 < await store.keep_alive(lease.id) <= 60
            finally:
                member.thaw()
            await asyncio.to_thread(etcd_cluster.wait_healthy)


async def test_a_connection_closed_under_a_renewal_does_not_cancel_its_caller(etcd_single: Cluster) -> None:
    async with EtcdStore.connect(etcd_single.endpoints) as store:
        lease = await store.grant(60)
        await store.keep_alive(lease.id)
        etcd_single.members[0].freeze()
        try:
            renewal = asyncio.create_task(store.keep_alive(lease.id))
            await asyncio.sleep(0)
            member = store.members.each()[0]
            retired = member._channel
            member._open()  # as after a silence
            await retired.close()
            with pytest.raises(Unavailable):
                await renewal
        finally:
            etcd_single.members[0].thaw()
