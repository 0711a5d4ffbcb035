"""``lainctl volume``: what is on a node's disk is asked of its agent; only what is gone can be given up, and only on purpose."""

from __future__ import annotations

import pytest

from lain_cli.failures import Exit
from lain_shared.agent_views import LossView, NodeVolume
from lain_shared.deployd_views import NodeView
from lain_shared.errors import NotFound
from lain_shared.model.node import Alive, Node
from tests.fixtures.cli import TOKEN, FakeConsole, Lain

NODE, LOSS = ("GET", "/api/v1/nodes/n1/"), "/api/v1/volumes/{}/confirm-loss/"


@pytest.fixture
def n1(console: FakeConsole) -> FakeConsole:
    """A node whose agent answers where the console does."""
    console.answers[NODE] = NodeView(Node("n1", "127.0.0.1"), Alive("n1", console.url, "e", "b", 0.0))
    console.answers["GET", "/api/v1/volumes/"] = [
        NodeVolume("hello.db-1", "/var/lib/lain/volumes/hello/db/1", True),
        NodeVolume("hello.db-2", "/var/lib/lain/volumes/hello/db/2", False),
    ]
    for name in ("hello.db-1", "hello.db-3"):
        console.answers["POST", LOSS.format(name)] = LossView(name)
    gone = NotFound("no data of hello.db-2 is missed on this node", code="no_such_volume")
    console.answers["POST", LOSS.format("hello.db-2")] = gone
    return console


def test_what_is_on_a_node_and_what_is_missing(lain: Lain, n1: FakeConsole) -> None:
    lines = lain.ctl("volume", "list", "n1").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["hello.db-1", "missing"], ["hello.db-2", "there"]]
    assert lain.ctl("volume", "list", "n1", "-o", "json").json()[0]["missing"] is True
    n1.answers["GET", "/api/v1/volumes/"] = []
    assert lain.ctl("volume", "list", "n1").out == "no instance has data on n1\n"


def test_a_loss_is_confirmed_on_purpose(lain: Lain, n1: FakeConsole) -> None:
    asked = lain.ctl("volume", "confirm-loss", "n1", "hello.db-1", stdin="n\n")
    assert asked.code == 130 and "hello.db-1" in asked.err and n1.changes == []
    done = lain.ctl("volume", "confirm-loss", "n1", "hello.db-1", "hello.db-3", "--yes")
    assert (done.code, done.out.splitlines()) == (
        0,
        ["hello.db-1 may start with no data on n1", "hello.db-3 may start with no data on n1"],
    )
    assert [one.token for one in n1.changes] == [TOKEN, TOKEN]
    told = lain.ctl("volume", "confirm-loss", "n1", "hello.db-1", stdin="y\n")
    assert told.code == 0


def test_data_that_is_there_cannot_be_given_up(lain: Lain, n1: FakeConsole) -> None:
    refused = lain.ctl("volume", "confirm-loss", "n1", "hello.db-1", "hello.db-2", "-y")
    assert refused.code == Exit.FAILED and "no data of hello.db-2 is missed" in refused.err
    assert "hello.db-1" in refused.err, "what was done before"
    assert "next: lainctl volume list n1" in refused.err


def test_a_node_or_an_agent_that_cannot_be_asked(lain: Lain, n1: FakeConsole) -> None:
    n1.answers[NODE] = NodeView(Node("n1", "127.0.0.1"))
    away = lain.ctl("volume", "list", "n1")
    assert away.code == Exit.UNREACHABLE and "next: lainctl node inspect n1" in away.err
    n1.answers[NODE] = NodeView(Node("n1", "127.0.0.1"), Alive("n1", "http://127.0.0.1:1", "e", "b", 0.0))
    silent = lain.ctl("volume", "list", "n1")
    assert silent.code == Exit.UNREACHABLE and "at http://127.0.0.1:1 cannot be asked from here" in silent.err
    n1.answers[NODE] = NodeView(Node("n1", "10.0.0.1"), Alive("n1", "http://10.0.0.1:9520", "e", "b", 0.0))
    clear = lain.ctl("volume", "confirm-loss", "n1", "hello.db-1", "-y")
    assert clear.code != 0 and "in clear" in clear.err and n1.changes == []
