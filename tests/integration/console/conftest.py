"""What the console's integration tests run on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lain_sdk.client import Console
from lain_shared.store import Store
from tests.fixtures.console import ClusterForConsole, cluster_on
from tests.fixtures.registry import ImageRegistry


@pytest.fixture
async def cluster(store: Store, image_registry: ImageRegistry, tmp_path: Path) -> AsyncIterator[ClusterForConsole]:
    """A bootstrapped cluster on the session's etcd and registry."""
    async with cluster_on(store, image_registry, tmp_path) as made:
        yield made


@pytest.fixture
async def lain(cluster: ClusterForConsole) -> Console:
    """An operator's client of a running console."""
    return await cluster.client(await cluster.console())
