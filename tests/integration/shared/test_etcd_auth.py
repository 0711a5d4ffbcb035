"""Who may touch what in etcd: mTLS, a user a daemon, exactly its families (design: closed by default)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest

from lain_shared import etcd_auth, etcd_proto, keys
from lain_shared.errors import Denied, LainError, Unauthenticated, Unavailable, Uncertain
from lain_shared.etcd import EtcdStore
from lain_shared.keys import Family
from lain_shared.lease import Leadership, Presence
from lain_shared.testing import eventually
from tests.fixtures.certificates import Authority
from tests.fixtures.etcd import TlsCluster
from tests.fixtures.parts import running

NODES = ("n1", "n10")
USERS = [(daemon, node) for daemon in keys.DAEMONS for node in (NODES if keys.is_per_node(daemon) else (None,))]


@pytest.fixture
async def closed(etcd_tls: TlsCluster) -> AsyncIterator[TlsCluster]:
    """etcd with every daemon's user, authentication on."""
    async with etcd_tls.connect(etcd_auth.ROOT_USER) as root:
        await etcd_auth.apply(root, NODES)
    yield etcd_tls


def example_key(family: Family, first: str = "x") -> str:
    return family.key(first, *("x" for _ in family.parts[1:]))


def owner_part(family: Family, daemon: str, node: str | None) -> str:
    if family.per_node and node is not None:
        return node
    return daemon if family in (keys.LEADER, keys.AUDIT) else "x"


async def allowed_to_write(store: EtcdStore, key: str) -> bool:
    try:
        await store.put(key, b"{}")
    except Denied:
        return False
    await store.delete(key)
    return True


async def allowed_to_read(store: EtcdStore, prefix: str) -> bool:
    try:
        await store.list(prefix)
    except Denied:
        return False
    return True


async def test_each_daemon_touches_exactly_its_families(closed: TlsCluster) -> None:
    for daemon, node in USERS:
        async with closed.connect(keys.user_of(daemon, node)) as store:
            for family in keys.FAMILIES:
                where = f"{keys.user_of(daemon, node)} on {family.name}"
                writes = daemon in family.writers
                own_only = daemon in family.node_readers
                reads = (writes or daemon in family.readers) and not own_only
                own = example_key(family, owner_part(family, daemon, node))
                assert await allowed_to_write(store, own) == writes, f"{where}: write"
                assert await allowed_to_read(store, family.prefix) == reads, f"{where}: read"
                if own_only and node is not None:
                    assert await allowed_to_read(store, family.under(node)), f"{where}: read its own node's"
                    assert not await allowed_to_read(store, family.under(node + "0")), f"{where}: read another node's"
            assert not await allowed_to_write(store, "/elsewhere")
            assert not await allowed_to_read(store, "")


async def test_an_agent_writes_only_its_own_node(closed: TlsCluster) -> None:
    async with closed.connect(keys.user_of(keys.AGENT, "n1")) as store:
        for family in keys.FAMILIES:
            if family.per_node and keys.AGENT in family.writers:
                assert await allowed_to_write(store, example_key(family, "n1")), family.name
                assert not await allowed_to_write(store, example_key(family, "n10")), family.name
                assert not await allowed_to_write(store, example_key(family, "n2")), family.name


async def test_no_daemon_leads_or_signs_for_another(closed: TlsCluster) -> None:
    async with closed.connect(keys.user_of(keys.DEPLOYD)) as store:
        assert await allowed_to_write(store, keys.LEADER.key("deployd"))
        assert not await allowed_to_write(store, keys.LEADER.key("deployd2"))
        assert await allowed_to_write(store, keys.AUDIT.key("deployd", "1"))
        assert not await allowed_to_write(store, keys.AUDIT.key("console", "1"))


async def test_what_is_denied_is_said_at_once_by_every_verb(closed: TlsCluster) -> None:
    async with closed.connect(keys.user_of(keys.WATCHER)) as store:
        key = keys.SECRETS.key("app", "name")
        for attempt in (store.get(key), store.list(keys.SECRETS.prefix), store.put(key, b""), store.delete(key)):
            with pytest.raises(Denied):
                await attempt
        with pytest.raises(Denied):
            await store.put(key, b"", expect=0)
        with pytest.raises(Denied):
            async with aclosing(store.watch(keys.SECRETS.prefix, start_revision=1)) as batches:
                await anext(batches)


async def test_daemons_have_their_presence_and_leadership_under_their_own_users(closed: TlsCluster) -> None:
    async with closed.connect(keys.user_of(keys.AGENT, "n1")) as agent, closed.connect(keys.DEPLOYD) as deployd:
        presence = Presence(agent, lambda: (keys.ALIVE.key("n1"), b"{}"), 2, release=True)
        leadership = Leadership(deployd, "deployd", "d1")
        async with running(presence, leadership):
            await eventually(lambda: presence.ready and leadership.is_leader, what="presence and leadership")


async def test_apply_again_changes_nothing_and_serves_a_new_node(closed: TlsCluster) -> None:
    async with closed.connect(etcd_auth.ROOT_USER) as root:
        assert await etcd_auth.apply(root, NODES) == ()
        added = await etcd_auth.apply(root, (*NODES, "n3"))
        assert etcd_auth.AddUser("agent@n3") in added
        assert all("n3" in repr(action) for action in added)
        async with closed.connect("agent@n3") as agent:
            await agent.put(keys.ALIVE.key("n3"), b"{}")
            await etcd_auth.remove_node(root, "n3")
            await etcd_auth.remove_node(root, "n3")
            with pytest.raises((Denied, Unauthenticated)):
                await agent.put(keys.ALIVE.key("n3"), b"{}")


async def test_apply_takes_back_what_a_role_should_not_have(closed: TlsCluster) -> None:
    async with closed.connect(etcd_auth.ROOT_USER) as root, closed.connect(keys.WATCHER) as watcher:
        too_much = etcd_auth.permissions([keys.Grant(keys.SECRETS.prefix, write=True)])
        await etcd_auth.execute(root, etcd_auth.Permit(keys.WATCHER, next(iter(too_much))))
        assert await allowed_to_write(watcher, keys.SECRETS.key("a", "b"))
        assert len(await etcd_auth.apply(root, NODES)) == 1
        assert not await allowed_to_write(watcher, keys.SECRETS.key("a", "b"))


async def test_a_daemon_cannot_change_who_may_do_what(closed: TlsCluster) -> None:
    async with closed.connect(keys.CONSOLE) as console:
        with pytest.raises(Denied):
            await etcd_auth.apply(console, (*NODES, "n3"))


# --- who is not let in at all -----------------------------------------------------------------------------------------


async def refused(store: EtcdStore) -> LainError:
    with pytest.raises((Unavailable, Unauthenticated, Denied)) as error:
        await store.list(keys.APPS.prefix)
    return error.value


async def test_a_certificate_of_another_authority_is_refused(closed: TlsCluster, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign").issue(etcd_auth.ROOT_USER)
    ours = closed.authority.issue("stranger")
    (foreign / "ca.pem").write_bytes((ours / "ca.pem").read_bytes())
    async with EtcdStore.connect(closed.endpoints, tls_dir=foreign, timeout_seconds=2) as store:
        error = await refused(store)
        assert isinstance(error, Unavailable)
        assert "this cluster's authority" in error.next
        with pytest.raises(Unavailable) as put:
            await store.put(keys.APPS.key("x"), b"")
        assert not isinstance(put.value, Uncertain)


async def test_a_server_of_another_authority_is_not_trusted(closed: TlsCluster, tmp_path: Path) -> None:
    foreign = Authority(tmp_path / "foreign").issue(etcd_auth.ROOT_USER)
    async with EtcdStore.connect(closed.endpoints, tls_dir=foreign, timeout_seconds=2) as store:
        error = await refused(store)
    assert isinstance(error, Unavailable)
    assert "certificate" in error.why.lower()
    assert "this cluster's authority" in error.next


async def test_a_certificate_without_a_user_is_refused(closed: TlsCluster) -> None:
    async with closed.connect("stranger", timeout_seconds=2) as store:
        assert isinstance(await refused(store), (Denied, Unauthenticated))


async def test_no_certificate_and_no_tls_are_refused(closed: TlsCluster) -> None:
    async with EtcdStore.connect(closed.endpoints, timeout_seconds=1) as store:
        assert "speak TLS only" in (await refused(store)).next
    authority = (closed.authority.issue("stranger") / "ca.pem").read_bytes()
    channel = grpc.aio.secure_channel(closed.endpoints[0], grpc.ssl_channel_credentials(authority))
    async with channel:
        read = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=etcd_proto.RangeRequest.SerializeToString,
            response_deserializer=etcd_proto.RangeResponse.FromString,
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await read(etcd_proto.RangeRequest(key=b"\0", range_end=b"\0"), timeout=2)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
