"""The first documents in etcd: enough for a daemon to verify the first token, and never overwritten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lain_cli.bootstrap.files import make_files
from lain_cli.bootstrap.layout import Spec
from lain_cli.bootstrap.seed import seed
from lain_shared import keys
from lain_shared.model.config import ClusterConfig, Jwks, Role, Token
from lain_shared.model.node import Node
from lain_shared.records import Records
from lain_shared.testing import MemoryStore
from lain_shared.tokens import Verifier

NOW = 1_767_225_600.0
SPEC = Spec("test", "n1", "10.0.0.11", router_http_port=8080, registry_push="127.0.0.1:5001")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_files(tmp_path / "etc", tmp_path / "data", SPEC, datetime.fromtimestamp(NOW, UTC))
    return tmp_path / "etc"


async def test_the_first_token_is_an_operator_s_and_verifies_by_what_is_published(root: Path) -> None:
    store = MemoryStore()
    await seed(store, root, SPEC, now=lambda: NOW)
    jwks = await Records(store, keys.CONFIG, Jwks).get("jwks")
    tokens = {stored.value.id: stored.value for stored in await Records(store, keys.TOKENS, Token).list()}
    assert jwks is not None
    verifier = Verifier(lambda: jwks.value, lambda: tokens, now=lambda: NOW + 60)
    principal = verifier.verify((root / "secrets/client/token").read_text())
    assert (principal.name, principal.role) == ("operator", Role.OPERATOR)


async def test_the_cluster_and_its_node_are_described(root: Path) -> None:
    store = MemoryStore()
    await seed(store, root, SPEC, now=lambda: NOW)
    cluster = await Records(store, keys.CONFIG, ClusterConfig).get("cluster")
    node = await Records(store, keys.NODES, Node).get("n1")
    assert cluster is not None and node is not None
    assert (cluster.value.domain, cluster.value.router_http_port, cluster.value.registry_push) == (
        "lain.localhost",
        8080,
        "127.0.0.1:5001",
    )
    assert (node.value.address, node.value.labels) == ("10.0.0.11", {"router": "true", "group": "default"})


async def test_again_writes_nothing(root: Path) -> None:
    store = MemoryStore()
    assert await seed(store, root, SPEC, now=lambda: NOW)
    before = await store.list("/lain/")
    assert await seed(store, root, SPEC, now=lambda: NOW + 1000) == ()
    assert await store.list("/lain/") == before


@pytest.mark.parametrize("found", ["soon", "ended", "damaged"])
async def test_a_token_that_is_no_good_for_long_is_issued_anew(root: Path, found: str) -> None:
    """Its only operator could let nobody in again, not even themselves."""
    store, file = MemoryStore(), root / "secrets/client/token"
    await seed(store, root, SPEC, now=lambda: NOW)
    first, later = file.read_text(), NOW + {"soon": 340, "ended": 400, "damaged": 1}[found] * 86400
    if found == "damaged":
        file.write_text("nonsense")
    assert any("issued a token" in line for line in await seed(store, root, SPEC, now=lambda: later))
    assert file.read_text() != first and file.stat().st_mode & 0o777 == 0o600
    jwks = await Records(store, keys.CONFIG, Jwks).get("jwks")
    tokens = {stored.value.id: stored.value for stored in await Records(store, keys.TOKENS, Token).list()}
    assert jwks is not None
    verifier = Verifier(lambda: jwks.value, lambda: tokens, now=lambda: later + 60)
    assert verifier.verify(file.read_text()).role is Role.OPERATOR


async def test_what_an_operator_changed_stays_and_facts_about_the_machine_follow(root: Path) -> None:
    store = MemoryStore()
    await seed(store, root, SPEC, now=lambda: NOW)
    records = Records(store, keys.CONFIG, ClusterConfig)
    stored = await records.get("cluster")
    assert stored is not None
    await records.put(replace(stored.value, extra_domains=("example.org",)), "cluster")
    await seed(store, root, replace(SPEC, router_http_port=80), now=lambda: NOW)
    after = await records.get("cluster")
    assert after is not None
    assert (after.value.extra_domains, after.value.router_http_port) == (("example.org",), 80)
