"""One record that cannot be read holds up what it is about, and nothing else."""

from __future__ import annotations

import pytest
import structlog

from lain_console.operations.claims import plan_claims
from lain_console.releases import read_rooms
from lain_shared import keys
from lain_shared.model.app import Outcome
from lain_shared.model.node import Alive, Node
from lain_shared.placement import Ask, place
from lain_shared.records import BadRecord
from tests.unit.console.builders import Bench, Console, proc, release_of, web

NEWER = b'{"v":99}'
GARBAGE = b"\x00not json"


@pytest.fixture
async def console(bench: Bench) -> Console:
    await bench.register()
    return await bench.console()


@pytest.mark.parametrize("value", [NEWER, GARBAGE])
async def test_what_can_be_read_is_listed_and_the_rest_is_named(bench: Bench, value: bytes) -> None:
    await bench.register()
    await bench.store.put(keys.APPS.key("bad"), value)
    stored, bad = await bench.state.apps.list_readable()
    assert [each.value.name for each in stored] == ["hello"]
    assert list(bad) == [keys.APPS.key("bad")] and keys.APPS.key("bad") in bad[keys.APPS.key("bad")]
    with pytest.raises(BadRecord):
        await bench.state.apps.list()


@pytest.mark.parametrize("value", [NEWER, GARBAGE])
async def test_an_unreadable_operation_holds_up_its_app_only_and_is_told_once(
    bench: Bench, console: Console, value: bytes
) -> None:
    await bench.store.put(keys.OPERATIONS.key("other"), value)
    with structlog.testing.capture_logs() as told:
        await console.deploy(release_of(1, web(1, "hello.lain.localhost")))
        record = await bench.run(console)
        await console.driver.one_pass()
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    stuck = [line for line in told if line["event"] == "operation_stuck"]
    assert [line["app"] for line in stuck] == ["other"] and keys.OPERATIONS.key("other") in stuck[0]["why"]
    assert await bench.store.get(keys.OPERATIONS.key("other")) is not None


@pytest.mark.parametrize("key", [keys.HOSTS.key("else.org"), keys.ROUTES.key("else.org", "/")])
async def test_somebodys_unreadable_claim_keeps_no_operation_from_ending(
    bench: Bench, console: Console, key: str
) -> None:
    await bench.store.put(key, NEWER)
    await console.deploy(release_of(1, web(1, "hello.lain.localhost")))
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED
    claims = await bench.state.claims_on(["else.org"])
    refusals = plan_claims("hello", [web(1, "else.org")], claims).refusals
    assert [each.code for each in refusals] == ["claim_unreadable"]


async def test_an_unreadable_node_gets_no_pods_and_the_others_do(bench: Bench) -> None:
    await bench.make_node()
    await bench.state.nodes.put(Node("n2", "10.0.0.2"), "n2")
    await bench.state.alive.put(Alive("n2", "", "", "", 0.0), "n2")
    await bench.store.put(keys.NODES_STATE.key("n2"), NEWER)
    await bench.store.put(keys.NODES.key("n3"), NEWER)
    await bench.store.put(keys.ASSIGN.key("n1", "x.web-1.g1"), NEWER)
    rooms = await read_rooms(bench.state)
    assert set(rooms) == {"n1", "n2"}
    wanted = proc("web")
    assert place(Ask("hello", "web", wanted.template), rooms).node == "n1"
    assert place(Ask("hello", "web", wanted.template), {"n2": rooms["n2"]}).node is None
