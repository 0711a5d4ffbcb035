"""An nginx that is away, silent, starting or ending beside its watcher: who listens, who is ready, who counts as absent."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lain_shared.testing import MemoryStore, eventually
from lain_watcher.router import STARTING
from tests.fixtures.nginx import NginxBox, is_open
from tests.integration.watcher.watched import Watched, endpoint


async def test_nginx_listens_only_after_a_sync(watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """An old table on disk must not be served while etcd could tell better."""
    store = MemoryStore()
    first: Watched = await watch(store)
    old, new = await backends("old", "new")
    await first.applied(await first.put("hello", old))
    box = first.front.box
    await first.end()
    assert await asyncio.to_thread(box.stop) == 0
    box.start(wait=False)
    await eventually(lambda: box.said.count("waiting_for_the_watcher") == 2)
    assert not is_open(box.http_port)
    await first.put("hello", new)
    second: Watched = await watch(store, box=box)
    await asyncio.to_thread(box.wait_up)
    assert (await second.front.get("/")).json["backend"] == "new"


async def test_nginx_away_and_back(watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    first = await watched.applied(await watched.put("hello", one))
    box = watched.front.box
    assert await asyncio.to_thread(box.stop) == 0

    async def away() -> bool:
        return (await watched.published()).boot_id == ""

    await eventually(away)
    state = await watched.applied(await watched.put("hello", two))
    assert state.boot_id == "", "no process exists: what it would start from counts as applied"
    assert "nginx" in (await watched.api("GET", "/readyz"))[1]["reasons"]
    await asyncio.to_thread(box.start)
    assert (await watched.front.get("/")).json["backend"] == "two"

    async def back() -> bool:
        return (await watched.published()).boot_id not in ("", first.boot_id)

    await eventually(back)


async def test_a_silent_nginx_is_not_an_absent_one(watch: Callable[..., Any], backends: Callable[..., Any]) -> None:
    """A frozen nginx may still send requests somewhere: its last word stands, nothing newer counts as applied."""
    watched: Watched = await watch(MemoryStore())
    one, two = await backends("one", "two")
    before = await watched.applied(await watched.put("hello", one))
    workers = watched.front.box.workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    revision = await watched.put("hello", two)
    await eventually(
        lambda: any("nginx" in name for name in watched.health.not_ready()), 20, "nginx counts as not ready"
    )
    state = await watched.published()
    assert (state.boot_id, state.applied_revision) == (before.boot_id, before.applied_revision)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    await watched.applied(revision)


async def test_an_nginx_that_ends_its_last_requests_is_not_absent(
    watch: Callable[..., Any], backends: Callable[..., Any], make_nginx: Callable[..., NginxBox]
) -> None:
    """A graceful stop removes the control socket at once; pods are needed until the last worker is gone."""
    box = make_nginx(wait_seconds="30", grace_seconds="30")
    watched: Watched = await watch(MemoryStore(), box=box)
    await asyncio.to_thread(box.start)
    old, new = await backends("old", "new")
    await watched.applied(await watched.put("hello", old))
    asking = asyncio.create_task(watched.front.get("/slow"))
    await eventually(lambda: old.waiting == 1)
    before = await watched.applied(await watched.put("hello", new, draining=(endpoint(old),)))
    assert before.busy == (old.address,)
    stopping = asyncio.create_task(asyncio.to_thread(box.stop, signal.SIGQUIT))

    async def why() -> str:
        return str((await watched.api("GET", "/readyz"))[1]["reasons"].get("nginx", ""))

    assert "processes exist" in await eventually(why)
    revision = await watched.put("late", new)
    await eventually(lambda: b"late" in (box.shared / "table.jsonl").read_bytes())
    state = await watched.published()
    assert (state.boot_id, state.busy) == (before.boot_id, (old.address,))
    assert state.applied_revision < revision
    old.release.set()
    assert (await asking).status == 200
    assert await stopping == 0
    state = await watched.applied(revision)
    assert (state.boot_id, state.busy) == ("", ())


async def test_an_nginx_that_starts_is_not_absent(
    watch: Callable[..., Any], backends: Callable[..., Any], make_nginx: Callable[..., NginxBox], tmp_path: Path
) -> None:
    """It may have read the table already: what is written before it answers is not applied."""
    slow, reads, go = tmp_path / "slow-nginx", tmp_path / "reads", tmp_path / "go"
    slow.write_text(f'#!/bin/sh\ntouch {reads}\nwhile [ ! -e {go} ]; do sleep 0.02; done\nexec nginx "$@"\n')
    slow.chmod(0o755)
    box = make_nginx(wait_seconds="30", binary=str(slow))
    watched: Watched = await watch(MemoryStore(), box=box)
    one, two = await backends("one", "two")
    absent = await watched.applied(await watched.put("hello", one))
    assert absent.boot_id == ""
    box.start(wait=False)
    await eventually(reads.exists)
    revision = await watched.put("hello", two)

    async def seen() -> bool:
        return (await watched.published()).boot_id == STARTING

    await eventually(seen)
    await eventually(lambda: two.address.encode() in (box.shared / "table.jsonl").read_bytes())
    assert (await watched.published()).applied_revision < revision
    go.touch()
    await asyncio.to_thread(box.wait_up)
    assert (await watched.applied(revision)).boot_id not in ("", STARTING)
