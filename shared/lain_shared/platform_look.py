"""Looking at the platform itself, from inside one of its daemons: etcd's members one by one, and who leads deployd.

Asked when somebody wants to know what is wrong, so nothing here raises for a store that is away: that is the answer.
"""

from __future__ import annotations

import asyncio

from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.etcd import EtcdStore
from lain_shared.model.node import Leader
from lain_shared.platform_view import EtcdMemberView, LeaderView
from lain_shared.records import BadRecord, Records
from lain_shared.store import Store

LEADER_SECONDS = 3.0
DEPLOYD = "deployd"


async def etcd_members(store: Store) -> tuple[EtcdMemberView, ...]:
    """Every member of the store, asked at once; none if it has no members."""
    if not isinstance(store, EtcdStore):
        return ()
    return tuple(
        EtcdMemberView(endpoint, error=found)
        if isinstance(found, str)
        else EtcdMemberView(
            endpoint,
            version=found.version,
            has_leader=found.has_leader,
            leads=found.leader,
            db_bytes=found.db_bytes,
            db_used_bytes=found.db_used_bytes,
            alarms=found.errors,
        )
        for endpoint, found in (await store.statuses()).items()
    )


async def leader(store: Store) -> LeaderView:
    """Who leads deployd, read now."""
    key = keys.LEADER.key(DEPLOYD)
    try:
        async with asyncio.timeout(LEADER_SECONDS):
            entry = await store.get(key)
    except TimeoutError:
        return LeaderView(problem=f"{key} could not be read in {LEADER_SECONDS:g} s")
    except LainError as error:
        return LeaderView(problem=f"{error.message}: {error.why}" if error.why else error.message)
    if entry is None:
        return LeaderView()
    try:
        found = Records(store, keys.LEADER, Leader).decode(key, entry.value)
    except BadRecord as error:
        return LeaderView(foreign=True, problem=f"{error.message}: {error.why}")
    return LeaderView(found.id, found.since, foreign=not entry.lease)
