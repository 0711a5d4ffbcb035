"""Asking the members of a store how they are, each by itself: what a daemon tells of etcd when somebody wants to know what is wrong."""

from __future__ import annotations

from lain_shared.etcd import EtcdStore
from lain_shared.platform_view import EtcdMemberView
from lain_shared.store import Store


async def etcd_members(store: Store) -> tuple[EtcdMemberView, ...]:
    """Every member of the store, asked at once; none if it has no members."""
    if not isinstance(store, EtcdStore):
        return ()
    return tuple(
        EtcdMemberView(endpoint, found)
        if isinstance(found, str)
        else EtcdMemberView(
            endpoint, "", found.version, found.has_leader, found.leader, found.db_bytes, found.db_used_bytes, found.errors
        )
        for endpoint, found in (await store.statuses()).items()
    )  # fmt: skip
