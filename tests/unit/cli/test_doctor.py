"""``lainctl``: the doctor, and what operators look at."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from lain_cli.checks import Check, run_checks
from lain_cli.context import Run
from lain_sdk.api_types import ClusterView, IssuedToken, TokenView, WhoamiView
from lain_shared.deployd_views import NodeView, RouterView
from lain_shared.errors import Unauthenticated, Unavailable
from lain_shared.model.config import Role
from lain_shared.model.node import Alive, Node, NodeState, Switch
from lain_shared.model.route import RouterState
from tests.fixtures.cli import FakeConsole, Lain

GIB = 1024**3
STATE = NodeState("n1", 2, 24 * GIB, GIB, 250 * GIB, 80 * GIB, "20.10.24", block="172.20.1.0/24", free_addresses=200)
ALIVE = Alive("n1", "https://10.77.0.11:9520", "engine", "boot", 1500000000.0)


def node(name: str = "n1", **more: Any) -> NodeView:
    return NodeView(**{"node": Node(name, "10.77.0.11", {"group": "default", "router": "true"}), "alive": ALIVE, "state": STATE, "pods": 3,
                       "reserved_bytes": 3 * 64 * 1024**2, **more})  # fmt: skip


@pytest.fixture
def well(lain: Lain, console: FakeConsole) -> FakeConsole:
    """Everything answers as it should."""
    console.answers["GET", "/api/v1/cluster/"] = ClusterView("c", "d", console_version="0.1.0")
    console.answers["GET", "/api/v1/whoami/"] = WhoamiView("eve", "operator", expires_at=time.time() + 90 * 86400)
    console.answers["GET", "/api/v1/switches/"] = [Switch("readonly", False)]
    console.answers["GET", "/api/v1/nodes/"] = [node()]
    console.answers["GET", "/healthz"] = {}
    return console


def checks(lain: Lain) -> dict[str, Check]:
    return {one.name: one for one in run_checks(Run(lain.environ, lain.directory), offline=False)}


def test_what_answers_is_ok_and_what_does_not_says_what_to_do(lain: Lain, well: FakeConsole) -> None:
    found = checks(lain)
    states = {name: one.state for name, one in found.items()}
    assert states == {
        "docker": "problem", "disk": "ok", "git": "ok", "configuration": "ok", "console": "ok", "token": "ok", "deployd": "ok",
        "nodes": "ok", "registry": "problem", "certificates": "skipped", "clock": "ok",
    }  # fmt: skip
    assert all(one.next for one in found.values() if one.state == "problem")
    done = lain.ctl("doctor")
    assert done.code == 1 and "next (docker): start Docker" in done.out


def test_without_a_phase_only_this_machine_is_looked_at(lain: Lain) -> None:
    found = checks(lain)
    assert found["configuration"].state == "problem" and found["cluster"].state == "skipped"
    assert [one["name"] for one in lain.ctl("doctor", "--offline", "-o", "json").json()["checks"]] == [
        "docker",
        "disk",
        "git",
        "configuration",
    ]


def test_a_cluster_in_trouble(lain: Lain, well: FakeConsole) -> None:
    well.answers["GET", "/api/v1/cluster/"] = ClusterView("c", "d", switches={"readonly": "etcd upgrade"})
    well.answers["GET", "/api/v1/whoami/"] = WhoamiView("eve", "operator", expires_at=time.time() + 86400)
    well.answers["GET", "/api/v1/nodes/"] = [node(), node("n2", alive=None)]
    (lain.home / "lain.conf.yaml").chmod(0o644)
    found = checks(lain)
    assert found["console"].state == "warning" and "etcd upgrade" in found["console"].found
    assert found["token"].state == "warning" and "lainctl token create" in found["token"].next
    assert found["nodes"].state == "problem" and "n2" in found["nodes"].found
    assert found["configuration"].state == "warning" and "chmod 600" in found["configuration"].next
    well.answers["GET", "/api/v1/nodes/"] = [
        node(state=NodeState("n1", 2, GIB, 0, GIB, 0, "20", problems=("the disk is full",)))
    ]
    assert checks(lain)["nodes"].found == "n1: the disk is full"
    well.answers["GET", "/api/v1/nodes/"] = []
    assert checks(lain)["nodes"].state == "problem"


def test_a_refused_token_and_a_dead_controller(lain: Lain, well: FakeConsole) -> None:
    well.answers["GET", "/api/v1/whoami/"] = Unauthenticated("the token has expired")
    well.answers["GET", "/api/v1/switches/"] = Unavailable("no leader")
    found = checks(lain)
    assert found["token"].state == "problem" and "lain login" in found["token"].next
    assert found["deployd"].state == "problem" and "no leader" in found["deployd"].found


@pytest.mark.parametrize("width", [80, 160, None])
def test_what_operators_look_at_fits(lain: Lain, well: FakeConsole, width: int | None) -> None:
    well.answers["GET", "/api/v1/nodes/"] = [
        node(),
        node("n2", alive=None),
        node(
            "n3",
            state=NodeState("n3", 2, GIB, 0, GIB, 0, "20", problems=("the disk is full", "the clock is 40 s behind")),
        ),
    ]
    well.answers["GET", "/api/v1/nodes/n1/"] = node()
    well.answers["GET", "/api/v1/switches/"] = [
        Switch("readonly", True, "eve", 1500000000.0, "etcd upgrade, back at noon")
    ]
    applied = RouterState("n1", 184, "boot", time.time() - 5, ("172.20.1.7",), {"bad": "its routes are not readable"})
    well.answers["GET", "/api/v1/routers/"] = [
        RouterView("n1", "n1", 0.0, applied, ("hello/web",)),
        RouterView("n2", "n2", 0.0),
    ]
    well.answers["GET", "/api/v1/tokens/"] = [
        TokenView("a" * 22, "ci", Role.MAINTAINER, ("hello", "shop"), 0.0, "eve", 1600000000.0, True)
    ]
    for words, expected in (
        (("node", "list"), ("n1", "away", "the disk is full")),
        (("node", "inspect", "n1"), ("172.20.1.0/24", "24 GiB")),
        (("switch", "list"), ("readonly", "etcd upgrade")),
        (("router", "list"), ("184", "bad", "away", "hello/web")),
        (("token", "list"), ("maintainer", "revoked")),
        (("doctor",), ("docker",)),
    ):
        done = lain.ctl(*words, width=width)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
        assert done.code in (0, 1), done.err
        if width != 80:  # there, cells fold
            assert all(word in " ".join(plain.split()) for word in expected), (words, plain)
        if width is not None:
            assert max(len(line) for line in plain.splitlines() if not line.startswith("next (")) <= width, plain
        else:
            assert "\x1b" not in done.out


def test_operators_change_things(lain: Lain, well: FakeConsole) -> None:
    well.answers["PUT", "/api/v1/switches/readonly/"] = Switch("readonly", True)
    assert lain.ctl("switch", "set", "readonly", "on", "--why", "x").out == "readonly is on\n"
    assert well.changes[0].body == {"on": True, "why": "x"}
    well.answers["DELETE", "/api/v1/routers/n1/"] = (204, None)
    assert lain.ctl("router", "forget", "n1", "--yes").code == 0
    assert lain.ctl("router", "forget", "n1", stdin="n\n").code == 130
    token = TokenView("id", "ci", Role.VIEWER, expires_at=1600000000.0)
    well.answers["POST", "/api/v1/tokens/"] = (201, IssuedToken(token, "the.token.text"))
    done = lain.ctl("token", "create", "ci", "--role", "viewer", "--apps", "a, b", "--expires", "2w")
    assert done.out == "the.token.text\n" and "id" in done.err
    assert well.changes[-1].body == {
        "name": "ci",
        "role": "viewer",
        "apps": ["a", "b"],
        "expires_in_seconds": 1209600.0,
    }
    assert lain.ctl("token", "create", "ci", "--role", "viewer", "--expires", "soon").code == 2
    well.answers["DELETE", "/api/v1/tokens/id/"] = (204, None)
    assert lain.ctl("token", "revoke", "id").code == 0
