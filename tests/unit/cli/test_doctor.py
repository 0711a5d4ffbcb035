"""``lainctl doctor``: every fault named once with what shows it and what to do, nothing named that is well; and what operators look at."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from lain_cli.checks import Check, run_checks
from lain_cli.config import Phase
from lain_cli.context import Run
from lain_cli.doctor.judge import judge
from lain_cli.doctor.local import LocalSight
from lain_cli.doctor.report import Site, code_of
from lain_cli.doctor.sight import Sight
from lain_sdk.api_types import AppView, ClusterView, IssuedToken, ProcView, TokenView, WhoamiView
from lain_shared import conditions as words
from lain_shared.contact import Certificate, ClockReading, Contact, Reached
from lain_shared.deployd_views import NodeView, PodView, RouterView
from lain_shared.errors import Unauthenticated, Unavailable
from lain_shared.model.app import AppState
from lain_shared.model.config import Role
from lain_shared.model.node import Alive, Condition, ConditionStatus, Node, NodeState, Switch
from lain_shared.model.pod import Evidence, PodState, ProcType
from lain_shared.model.route import RouterState
from lain_shared.model.status import ProcPhase
from lain_shared.platform_view import EtcdMemberView, LeaderView, PlatformView
from tests.fixtures.cli import FakeConsole, Lain

NOW = 1_800_000_000.0
DAY, GIB = 86400, 1024**3
CONDITIONS = tuple(Condition(type, ConditionStatus.FALSE, since=NOW - DAY) for type in words.ADVICE if "/" not in type)
STATE = NodeState(
    "n1", 2, 24 * GIB, GIB, 250 * GIB, 80 * GIB, "20.10.24", block="172.20.1.0/24", free_addresses=200, conditions=CONDITIONS
)  # fmt: skip
ALIVE = Alive("n1", "https://10.77.0.11:9520", "engine", "boot", 1500000000.0)


def node(name: str = "n1", **more: Any) -> NodeView:
    return NodeView(**{"node": Node(name, "10.77.0.11", {"group": "default", "router": "true"}), "alive": ALIVE, "state": STATE, "pods": 3,
                       "reserved_bytes": 3 * 64 * 1024**2, **more})  # fmt: skip


def token(expires_at: float) -> str:
    claims = json.dumps({"sub": "eve", "role": "operator", "exp": int(expires_at)}).encode()
    return f"x.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x"


# --- judging what was seen --------------------------------------------------------------------------------------------

PHASE = Phase(
    "prod", "https://c:9510", "https://d:9511", token=token(NOW + 90 * DAY), registry="r:5000", router="10.0.0.1"
)
MEMBER = EtcdMemberView("10.0.0.1:2379", "", "3.4.23", True, True, 1024**2, 1024**2)
PLATFORM = PlatformView("deployd", "0.1.0", NOW, LeaderView("n1", NOW - DAY), "", (MEMBER,), {}, (node(),))
APPLIED = RouterState("n1", 184, "boot", NOW - 5)


def contact(of: str, **more: Any) -> Contact:
    told = ClockReading(of, NOW, NOW + 0.01, float(int(NOW)))
    certificate = Certificate(f"the certificate of {of} at {of}:1", NOW - DAY, NOW + 200 * DAY)
    return Contact(
        **{"of": of, "address": f"{of}:1", "status": 200, "reading": told, "certificate": certificate, **more}
    )


def unreached(of: str, reached: Reached, error: str = "it said so") -> Contact:
    return Contact(of, f"{of}:1", reached, error=error)


WELL = Sight(
    PHASE,
    NOW,
    {name: contact(name) for name in ("console", "deployd", "registry", "router")},
    ClusterView("c", "d", console_version="0.1.0"),
    WhoamiView("eve", "operator"),
    (AppView("hello", "eve", AppState.DEPLOYED, procs=(ProcView("web", ProcType.WEB, 1, "x", 2, 2, phase=ProcPhase.STABLE),)),),
    replace(PLATFORM, daemon="console"),
    PLATFORM,
    (Switch("readonly", False), Switch("maintenance", False), Switch("guard", True), Switch("breaker", False)),
    (RouterView("n1", "n1", 0.0, APPLIED),),
    frozenset(),
    (),
)  # fmt: skip
AWAY = Unavailable("etcd at 10.0.0.1:2379 does not answer", why="connection refused", code="etcd_away")


def seen(**changes: Any) -> Sight:
    return replace(WELL, **changes)


def platform(**changes: Any) -> dict[str, Any]:
    """The same change of what both daemons say."""
    return {"by_deployd": replace(PLATFORM, **changes), "by_console": replace(PLATFORM, daemon="console", **changes)}


def contacts(**changes: Contact) -> Mapping[str, Contact]:
    return {**WELL.contacts, **changes}


def with_condition(type: str, reason: str = "Found", message: str = "what was found", **more: Any) -> dict[str, Any]:
    true = Condition(type, ConditionStatus.TRUE, reason, message, NOW - 60)
    state = replace(STATE, conditions=tuple(true if one.type == type else one for one in CONDITIONS))
    return platform(nodes=(node(state=state, **more),))


def bad(sight: Sight) -> dict[str, Check]:
    return {one.code: one for one in judge(sight) if one.bad}


def test_a_cluster_that_is_well_has_nothing_to_say() -> None:
    found = judge(WELL)
    assert {one.state for one in found} == {"ok"}, [one for one in found if one.state != "ok"]
    assert {one.state for one in judge(replace(WELL, local=LocalSight("x", "n1", "running", {"etcd": "running"})))} == {
        "ok"
    }


POD = PodView(
    app="hello", proc="web", instance=1, generation=3, release=1, node="n1", state=PodState.BACKOFF, ready=False, restarts=7,
    evidence=Evidence(1.0, "exited", exit_code=3, last_lines=("boom",)),
)  # fmt: skip
GONE = Contact("agent", "10.77.0.11:9520", Reached.REFUSED, error="connection refused")
ABSENT = platform(nodes=(node(alive=None),))
CASES: tuple[tuple[str, Sight, dict[str, tuple[str, ...]]], ...] = (
    ("console down", seen(contacts=contacts(console=unreached("console", Reached.REFUSED)), cluster=None, who=None, apps=None,
                          by_console=None),
     {"console_down": ("nothing listens at console:1", "docker start lain-console")}),
    ("controller hangs", seen(contacts=contacts(deployd=unreached("deployd", Reached.SILENT)), by_deployd=None, switches=None, routers=None,
                              pods=None, by_console=replace(PLATFORM, daemon="console", leader=LeaderView())),
     {"deployd_silent": ("hangs", "nobody lead", "docker restart lain-deployd")}),
    ("another certificate", seen(contacts=contacts(deployd=unreached("deployd", Reached.CERTIFICATE)), by_deployd=None, switches=None,
                                 routers=None, pods=None),
     {"deployd_certificate": ("not accepted", "lain config show")}),
    ("etcd away", seen(cluster=AWAY, apps=AWAY, **platform(etcd=(EtcdMemberView("10.0.0.1:2379", "connection refused"),),
                                                           leader=LeaderView(problem="it does not answer"), nodes=(node(alive=None),)),
                       routers=(RouterView("n1", "n1", 0.0),)),
     {"etcd_down": ("0 of 1 members well", "10.0.0.1:2379: connection refused", "docker start lain-etcd")}),
    ("etcd away and nobody to ask", seen(cluster=AWAY, apps=AWAY, by_console=AWAY, by_deployd=AWAY, switches=AWAY, routers=AWAY, pods=AWAY),
     {"etcd_down": ("does not answer", "connection refused")}),
    ("etcd without leader", seen(**platform(etcd=tuple(EtcdMemberView(f"{i}:2379", "etcdserver: no leader") for i in range(3)))),
     {"etcd_no_leader": ("0 of 3 members",)}),
    ("one member of three", seen(**platform(etcd=(MEMBER, replace(MEMBER, endpoint="b:2379"), EtcdMemberView("c:2379", "timeout")))),
     {"etcd_member_down": ("c:2379: timeout",)}),
    ("etcd full", seen(**platform(etcd=(replace(MEMBER, alarms=("memberID:1 alarm:NOSPACE",)),), leader=LeaderView())),
     {"etcd_nospace": ("NOSPACE", "alarm disarm", "defrag")}),
    ("etcd fills up", seen(**platform(etcd=(replace(MEMBER, db_bytes=int(1.5 * GIB)),))), {"etcd_large": ("1.5 GiB of the 2 GiB",)}),
    ("nobody leads", seen(**platform(leader=LeaderView())), {"no_leader": ("does not exist", "docker restart lain-deployd")}),
    ("a leader that is none", seen(**platform(leader=LeaderView("ghost", 1.0, True))),
     {"leader_foreign": ("ghost", "del /lain/leader/deployd")}),
    ("an unreadable record", seen(**{**with_condition(words.RECORDS_UNREADABLE), "by_console": replace(
        PLATFORM, daemon="console", unreadable={"/lain/desired/a/b": "it is no JSON"})}),
     {"record_unreadable": ("/lain/desired/a/b: it is no JSON", "get /lain/desired/a/b")}),
    ("readonly", seen(switches=(Switch("readonly", True, "eve", NOW - 60, "moving racks"), Switch("guard", True))),
     {"switch_readonly": ("eve", "moving racks", "lainctl switch set readonly off")}),
    ("guard off", seen(switches=(Switch("guard", False, "eve", NOW - 60),)), {"switch_guard": ("lainctl switch set guard on",)}),
    ("the agent does not run", seen(**ABSENT, agents={"n1": GONE}), {"agent_down": ("connection refused", "docker start lain-agent")}),
    ("the machine does not answer", seen(**ABSENT, agents={"n1": replace(GONE, reached=Reached.UNREACHABLE, error="no connection")},
                                         routers=(RouterView("n1", "n1", 0.0),)),
     {"node_unreachable": ("no connection", "is the machine up?")}),
    ("the agent's certificate", seen(**ABSENT, agents={"n1": replace(GONE, reached=Reached.CERTIFICATE,
                                                                     error="its certificate: certificate is not yet valid")}),
     {"agent_certificate": ("certificate is not yet valid", "date")}),
    ("the agent without etcd", seen(**ABSENT, agents={"n1": Contact("agent", "a:9520", status=503, body=json.dumps(
        {"status": "not ready", "reasons": {"presence": "etcd at x does not answer"}}).encode())}),
     {"agent_not_present": ("presence: etcd at x does not answer",)}),
    ("a node being drained", seen(**platform(nodes=(node(draining=True),))), {"node_draining": ("stays so until",)}),
    ("no node at all", seen(**platform(nodes=())), {"no_nodes": ("nothing to run anything on",)}),
    ("the watcher", seen(routers=(RouterView("n1", "n1", 0.0),), watchers={"n1": GONE}), {"watcher_down": ("docker start lain-watcher",)}),
    ("nginx, said by its watcher", seen(routers=(RouterView("n1", "n1", 0.0, replace(APPLIED, boot_id="")),),
                                        contacts=contacts(router=unreached("router", Reached.REFUSED, "connection refused"))),
     {"nginx_down": ("no nginx process", "from here: router:1: connection refused", "docker start lain-nginx")}),
    ("nginx hangs", seen(contacts=contacts(router=unreached("router", Reached.SILENT))), {"nginx_silent": ("hangs", "lain-nginx")}),
    ("a router behind", seen(routers=(RouterView("n1", "n1", 0.0, APPLIED, ("hello/web",)),), still_behind=frozenset({"n1"})),
     {"router_behind": ("behind on hello/web",)}),
    ("an app in quarantine", seen(routers=(RouterView("n1", "n1", 0.0, replace(APPLIED, quarantined={
        "bad": "its routes make no sense"})),)),
     {"app_quarantined": ("its routes make no sense", "lain explain --app bad")}),
    ("the registry", seen(contacts=contacts(registry=unreached("registry", Reached.REFUSED, "connection refused"))),
     {"registry_unavailable": ("from here: registry:1: connection refused",)}),
    ("the registry, said by a node", seen(**with_condition(words.REGISTRY_UNAVAILABLE, "CredentialsRefused", "it answered 401")),
     {"registry_unavailable": ("n1: it answered 401", "does not let it in")}),
    ("a certificate", seen(contacts=contacts(console=contact("console", certificate=Certificate(
        "the certificate of console at c", 0, NOW + DAY)))),
     {"certificate_expiring_here": ("the certificate of console at c ends", "docker restart lain-console")}),
    ("this machine's clock", seen(contacts={
        name: replace(one, reading=ClockReading(name, NOW, NOW, NOW - 300)) for name, one in WELL.contacts.items()}),
     {"clock_skewed_here": ("ahead of the cluster's",)}),
    ("an expired token", seen(phase=replace(PHASE, token=token(NOW - 3 * DAY)), who=Unauthenticated("no"), switches=Unauthenticated("no"),
                              routers=Unauthenticated("no"), pods=Unauthenticated("no"), apps=Unauthenticated("no"),
                              cluster=Unauthenticated("no"), by_console=Unauthenticated("no"), by_deployd=Unauthenticated("no")),
     {"token_expired": ("expired 3d 0h ago", "lainctl token create eve --role operator", "lain login -p prod")}),
    ("a refused token", seen(who=Unauthenticated("the token is not good", why="it was revoked")), {"token_refused": ("it was revoked",)}),
    ("a crash loop", seen(pods=(POD,)),
     {"pod_crash_loop": ("web-1 on n1 ended 7 times: exited, exit code 3", "| boom", "lain explain --app hello")}),
    ("an app without a node", seen(apps=(AppView("shop", "eve", AppState.DEPLOYED, procs=(
        ProcView("web", ProcType.WEB, 1, "x", 2, 1, phase=ProcPhase.WAITING, message="no room", reasons={"memory": 2}),)),)),
     {"app_waiting": ("no room", "memory rules out 2 nodes", "1 of 2 instances ready")}),
    ("a part that nothing else misses", seen(local=LocalSight("x", "n1", "running", {"watcher": "restarting", "etcd": "running"})),
     {"watcher_down": ("lain-watcher is restarting", "lain local exec --name x -- docker logs --tail 50 lain-watcher")}),
    ("a paused part, said by a node", seen(**with_condition(words.PART_DOWN, "Paused", "lain-nginx: lain-nginx is paused"),
                                           contacts=contacts(router=unreached("router", Reached.SILENT, "nothing came"))),
     {"nginx_silent": ("nothing came", "n1: lain-nginx is paused", "docker unpause lain-nginx")}),
    ("the node of a local cluster", seen(local=LocalSight("x", "n1", "exited")), {"node_stopped": ("exited", "lain local start --name x")}),
)  # fmt: skip


@pytest.mark.parametrize(("sight", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_fault_is_named_with_what_shows_it_and_what_to_do(
    sight: Sight, expected: dict[str, tuple[str, ...]]
) -> None:
    found = bad(sight)
    assert found.keys() == expected.keys(), found
    for code, told in expected.items():
        one = found[code]
        assert one.why and one.next and one.found
        text = " ".join((one.found, one.why, *one.evidence, one.next))
        for part in told:
            assert part in text, text


@pytest.mark.parametrize("type", [type for type in words.ADVICE if "/" not in type])
@pytest.mark.parametrize("local", [None, LocalSight("x", "n1", "running")])
def test_each_condition_of_a_node_is_told(type: str, local: LocalSight | None) -> None:
    message = "lain-agent: lain-agent is exited (exit code 1)" if type == words.PART_DOWN else "this and that"
    sight = replace(WELL, local=local, **with_condition(type, message=message))
    codes = {words.PART_DOWN: "agent_down"}
    (found,) = bad(sight).values()
    assert found.code == codes.get(type, code_of(type))
    assert found.why and found.next and any("n1: " in line and "(for 1m 0s)" in line for line in found.evidence)
    if found.command:
        assert (
            "lain local exec --name x -- " if local else ": docker" if type == words.REGISTRY_UNAVAILABLE else "on n1: "
        ) in found.next


def test_what_many_nodes_have_is_told_once() -> None:
    true = Condition(words.CLOCK_SKEWED, ConditionStatus.TRUE, "Ahead", "9 s ahead", NOW - 60)
    off = replace(STATE, conditions=(true,))
    sight = seen(**platform(nodes=tuple(node(name, state=off) for name in ("n1", "n2", "n3"))))
    (found,) = bad(sight).values()
    assert found.found == "nodes n1, n2, n3: its clock is off" or "n1, n2, n3" in found.found
    assert len(found.evidence) == 3


def test_an_older_agents_problems_are_told_as_they_are() -> None:
    old = replace(STATE, conditions=(), problems=("the disk is full",))
    found = bad(seen(**platform(nodes=(node(state=old),))))
    assert found["node_problem"].evidence == ("the disk is full",)


def test_commands_for_a_local_cluster_can_be_typed_as_they_are() -> None:
    site = Site("x", "n1")
    assert site.on("n1", "docker start lain-etcd") == "lain local exec --name x -- docker start lain-etcd"
    assert site.on("n1", "a; b 'c'") == """lain local exec --name x -- sh -c 'a; b '"'"'c'"'"''"""
    assert Site().on("n7", "a; b") == "on n7: a; b"
    assert code_of("PIDPressure") == "pid_pressure" and code_of("IPForwardOff") == "ip_forward_off"


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def well(lain: Lain, console: FakeConsole) -> FakeConsole:
    """Everything answers as it should."""
    now = time.time()
    told = PlatformView("deployd", "0.1.0", now, LeaderView("n1", now), "", (MEMBER,), {}, (node(),))
    console.answers["GET", "/api/v1/cluster/"] = ClusterView("c", "d", console_version="0.1.0")
    console.answers["GET", "/api/v1/whoami/"] = WhoamiView("eve", "operator")
    console.answers["GET", "/api/v1/switches/"] = [Switch("readonly", False)]
    console.answers["GET", "/api/v1/platform/"] = told
    console.answers["GET", "/api/v1/nodes/"] = [node()]
    console.answers["GET", "/api/v1/routers/"] = [RouterView("n1", "n1", 0.0, replace(APPLIED, applied_at=now))]
    console.answers["GET", "/api/v1/pods/"] = []
    console.answers["GET", "/api/v1/apps/"] = []
    console.answers["GET", "/readyz"] = {}
    return console


def checks(lain: Lain) -> dict[str, Check]:
    return {one.name: one for one in run_checks(Run(lain.environ, lain.directory), offline=False)}


def test_what_answers_is_ok_and_what_does_not_says_what_to_do(lain: Lain, well: FakeConsole) -> None:
    states = {name: one.state for name, one in checks(lain).items()}
    assert states == {
        "docker": "warning", "disk": "ok", "git": "ok", "configuration": "ok", "console": "ok", "token": "ok", "etcd": "ok",
        "deployd": "ok", "leader": "ok", "switches": "ok", "nodes": "ok", "routers": "ok", "router": "skipped",
        "registry": "problem", "certificates": "skipped", "clock": "ok", "apps": "ok",
    }  # fmt: skip
    done = lain.ctl("doctor")
    assert done.code == 1
    said = done.out.splitlines()
    assert said[0] == "1 problem, 1 warning"
    assert next(line for line in said if ": " in line[:9]).startswith("problem: the registry")
    assert any(line.startswith("  seen: from here: ") for line in said) and any(
        line.startswith("  next: ") for line in said
    )
    document = lain.ctl("doctor", "-o", "json").json()
    assert document["ok"] is False
    assert {one["code"] for one in document["checks"]} == {"", "docker_missing", "registry_unavailable"}


def test_nothing_wrong_is_said_in_so_many_words(lain: Lain, well: FakeConsole) -> None:
    lain.configure(console=well.url, deployd=well.url, token=token(time.time() + 90 * DAY))
    done = lain.ctl("doctor")
    assert "problem" not in done.out and done.code == 0


def test_without_a_phase_only_this_machine_is_looked_at(lain: Lain) -> None:
    found = checks(lain)
    assert found["configuration"].state == "problem" and found["cluster"].state == "skipped"
    assert [one["name"] for one in lain.ctl("doctor", "--offline", "-o", "json").json()["checks"]] == [
        "docker",
        "disk",
        "git",
        "configuration",
    ]


def test_a_phase_that_cannot_be_used_is_told_and_not_a_crash(lain: Lain) -> None:
    lain.configure(console="https://127.0.0.1:1", ca="/nowhere/ca.pem")
    done = lain.ctl("doctor")
    assert done.code == 1 and "/nowhere/ca.pem" in done.out and "Traceback" not in done.err


def test_nobody_there(lain: Lain) -> None:
    lain.configure(console="http://127.0.0.1:1", deployd="http://127.0.0.1:1", token=token(time.time() + 90 * DAY))
    found = {one.code for one in run_checks(Run(lain.environ, lain.directory), offline=False) if one.bad}
    assert found == {"docker_missing", "console_down", "deployd_down"}


@pytest.mark.parametrize("width", [80, 160, None])
def test_what_operators_look_at_fits(lain: Lain, well: FakeConsole, width: int | None) -> None:
    sick = replace(STATE, conditions=(), problems=("the disk is full", "the clock is 40 s behind"))
    well.answers["GET", "/api/v1/nodes/"] = [node(), node("n2", alive=None), node("n3", state=sick)]
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
    for words_, expected in (
        (("node", "list"), ("n1", "away", "the disk is full")),
        (("node", "inspect", "n1"), ("172.20.1.0/24", "24 GiB")),
        (("switch", "list"), ("readonly", "etcd upgrade")),
        (("router", "list"), ("184", "bad", "away", "hello/web")),
        (("token", "list"), ("maintainer", "revoked")),
        (("doctor",), ("docker",)),
    ):
        done = lain.ctl(*words_, width=width)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
        assert done.code in (0, 1), done.err
        if width != 80:  # there, cells fold
            assert all(word in " ".join(plain.split()) for word in expected), (words_, plain)
        if width is not None:
            assert max(len(line) for line in plain.splitlines() if not line.startswith("  next: ")) <= width, plain
        else:
            assert "\x1b" not in done.out


def test_a_node_tells_what_is_wrong_with_it_and_what_to_do(lain: Lain, well: FakeConsole) -> None:
    full = Condition(words.DISK_PRESSURE, ConditionStatus.TRUE, "Full", "volumes is 98 % full", time.time() - 60)
    unread = Condition(words.POD_TRAFFIC_DROPPED, ConditionStatus.UNKNOWN, "NotRead", "nft is not there", 1.0)
    sick = replace(STATE, conditions=(full, unread, *CONDITIONS[2:]), problems=("volumes is 98 % full",))
    well.answers["GET", "/api/v1/nodes/"] = [node(state=sick)]
    well.answers["GET", "/api/v1/nodes/n1/"] = node(state=sick)
    assert "its disk is full" in lain.ctl("node", "list").out
    told = lain.ctl("node", "inspect", "n1").out
    for text in (
        "DiskPressure: its disk is full",
        "seen: volumes is 98 % full (for 1m",
        "next: on n1: docker system df",
        "1 fault found",
    ):
        assert text in told, told
    assert "not known: PodTrafficDropped (nft is not there)" in told
    well.answers["GET", "/api/v1/nodes/n1/"] = node()
    assert f"no fault found of the {len(CONDITIONS)}" in lain.ctl("node", "inspect", "n1").out


def test_operators_change_things(lain: Lain, well: FakeConsole) -> None:
    well.answers["PUT", "/api/v1/switches/readonly/"] = Switch("readonly", True)
    assert lain.ctl("switch", "set", "readonly", "on", "--why", "x").out == "readonly is on\n"
    assert well.changes[0].body == {"on": True, "why": "x"}
    well.answers["DELETE", "/api/v1/routers/n1/"] = (204, None)
    assert lain.ctl("router", "forget", "n1", "--yes").code == 0
    assert lain.ctl("router", "forget", "n1", stdin="n\n").code == 130
    issued = TokenView("id", "ci", Role.VIEWER, expires_at=1600000000.0)
    well.answers["POST", "/api/v1/tokens/"] = (201, IssuedToken(issued, "the.token.text"))
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
