"""What hostile clients, data and manifests can do: nothing but be refused.

Requests that could be read in two ways and heads beyond all measure, at a real nginx, byte by byte; thousands of apps' data, most of it
hostile, through a whole router; manifests nobody wrote; and every daemon's API, as its OpenAPI document describes it, asked by schemathesis
in all its phases, and by callers with every wrong credential there is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

import structlog

from bench.report import Proof
from bench.stage import api_fuzz, hostile_table, manifest_fuzz
from bench.stage.cluster import Stage, stage
from bench.stage.daemons import PORTS, Daemons
from bench.stage.smuggling import Recorder, attacks, attempt
from lain_sdk.api_types import ConfigView
from lain_sdk.client import Console
from lain_shared.model.config import Role
from lain_shared.model.node import Node
from lain_shared.model.route import Route
from lain_shared.testing import eventually
from lain_watcher.table import ProcEntry, Table, encode
from tests.fixtures.cluster import App, wait_until
from tests.fixtures.nginx import own_nginx

if TYPE_CHECKING:
    from bench.__main__ import Options

APPS, QUICK_APPS = 10_000, 1_000
MANIFESTS, QUICK_MANIFESTS = 20_000, 1_000
EXAMPLES, QUICK_EXAMPLES = 60, 8
"""Of each operation, for each generating phase of schemathesis."""
PARSE_SECONDS = 1.0
KNOWN: dict[str, dict[str, str | int]] = {
    "console": {"app": "hello", "proc": "web", "instance": 1, "release": 1},
    "controller": {"node": "n1", "app": "hello", "proc": "web"},
}
SPARE_MIB = 512
"""What the ballast leaves free."""


def run(proof: Proof, options: Options) -> None:
    quick = options.quick
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    proof.facts["seed"] = options.seed
    _smuggling(proof)
    _table(proof, QUICK_APPS if quick else APPS, options.seed)
    _manifests(proof, QUICK_MANIFESTS if quick else MANIFESTS, options.seed)
    with stage(proof) as on:
        _apis(proof, on, QUICK_EXAMPLES if quick else EXAMPLES, options.seed)


# --- nginx ------------------------------------------------------------------------------------------------------------


def _smuggling(proof: Proof) -> None:
    case = proof.case("ambiguous requests and oversize heads at nginx", "s")
    with Recorder.running() as recorder, own_nginx() as box:
        peer = (f"127.0.0.1:{recorder.port}",)
        procs = [
            ProcEntry("simple", "web", (Route("simple.example"),), ready=peer, created=1),
            ProcEntry(
                "careful", "web", (Route("careful.example"), Route("careful.example", "/x")), ready=peer, created=2
            ),
        ]
        box.write_table(encode(Table(1, {entry.key: entry for entry in procs})).text)
        box.start()
        breaches: list[str] = []
        ambiguous = 0
        for host, other in (("simple.example", "careful.example"), ("careful.example", "simple.example")):
            for attack in attacks(host, other):
                outcome = attempt(box.http_port, recorder, attack)
                case.add("lain", outcome.seconds)
                ambiguous += sum(bool(one.faults) for one in outcome.forwarded)
                breaches += [f"{attack.name} at {host}: {text}" for text in outcome.breaches]
        box.stop()
    proof.say(f"{len(case.samples['lain'])} attacks, {len(breaches)} breaches")
    case.target("attacks with two answers, a wrong answer, or seen by the app", len(breaches), at_most=0)
    case.target("ambiguous requests forwarded", ambiguous, at_most=0)
    _note(proof, case.name, breaches)


def _table(proof: Proof, count: int, seed: int) -> None:
    case = proof.case(f"hostile data of {count} apps through a router", "s")
    found = asyncio.run(hostile_table.prove(count, seed))
    case.add("a batch of 1,000 until nginx has it", *found.seconds)
    proof.facts["hostile data"] = dict(found.counts)
    proof.facts["tables given to nginx"] = dict(found.tables)
    proof.say(f"{count} apps' data, {len(found.breaches)} breaches")
    case.target("data neither served as asked nor quarantined, or harm to others", len(found.breaches), at_most=0)
    case.target("requests to good apps that failed meanwhile", found.failed, at_most=0)
    case.target("requests to good apps meanwhile", found.asked, at_least=50)
    case.target("bytes that the router publishes of itself", found.record_bytes, at_most=hostile_table.MAX_RECORD_BYTES)
    _note(proof, case.name, found.breaches)


# --- manifests --------------------------------------------------------------------------------------------------------


def _manifests(proof: Proof, count: int, seed: int) -> None:
    case = proof.case("manifests nobody wrote: processor time of a parse", "s")
    found = manifest_fuzz.prove(count, seed, proof.say)
    case.add("lain", *found.seconds)
    proof.facts["manifests"] = {
        kind: number for kind, number in found.counts.items() if not kind.startswith("expensive")
    }
    proof.say(f"{len(found.seconds)} manifests, {len(found.breaches)} breaches, the slowest {case.worst():.3f} s")
    case.target("manifests that crash the parser, or what makes use of them", len(found.breaches), at_most=0)
    case.target("the slowest parse", case.worst(), at_most=PARSE_SECONDS)
    case.note(f"the slowest was {found.slowest[:200]}")
    _note(proof, case.name, found.breaches)


# --- APIs -------------------------------------------------------------------------------------------------------------


def _apis(proof: Proof, on: Stage, examples: int, seed: int) -> None:
    daemons = Daemons(on)
    app, ballast = _apps(on)
    _strangers(proof, daemons)
    standing = asyncio.run(_standing(daemons))
    for name in PORTS:
        for what in ("", " of what exists"):
            if what:
                _again(app)
            known = _known(on, name) if what else {}
            if what and not known:
                continue
            began = time.monotonic()
            found = api_fuzz.schemathesis(daemons, name, examples=examples, seed=seed, known=known)
            case = proof.case(f"schemathesis over {name}{what}", "requests")
            case.add("lain", found.cases)
            proof.say(
                f"{name}{what}: {found.cases} requests in {time.monotonic() - began:.0f} s, "
                f"{len(found.server_errors)} server errors, {len(found.breaches)} breaches"
            )
            case.target("operations with a 5xx", len(found.server_errors), at_most=0)
            case.target("operations with a schema breach", len(found.breaches), at_most=0)
            _note(proof, case.name, [*found.server_errors, *found.breaches])
            asyncio.run(_put_back(daemons, standing))
    case = proof.case("the cluster after all that", "s")
    began = time.monotonic()
    app.commit("after all that")
    _again(app)
    wait_until(lambda: app.get().status == 200, "hello answers", 60)
    case.add("until hello is built and deployed anew and answers", time.monotonic() - began)
    unready = _unready(on)
    case.target("parts that are not ready", len(unready), at_most=0)
    _note(proof, case.name, unready)
    for one in (app, ballast):
        one.lain("undeploy", "--yes", code=None)


def _apps(on: Stage) -> tuple[App, App]:
    """``hello``, and an app that takes the node's room, so that no scaling starts hundreds of containers."""
    app = on.cluster.app("hello", on.folder)
    app.ship()
    node = on.cluster.lainctl("node", "inspect", "n1", "-o", "json").json()
    free = node["state"]["memory_bytes"] - node["state"]["reserved_memory_bytes"] - node["reserved_bytes"]
    ballast = on.cluster.app("hello", on.folder, name="ballast")
    room = free // 2**20 - SPARE_MIB
    ballast.edit("lain.yaml", lambda text: text.replace("memory: 64m", f"memory: {room}m"))
    ballast.commit("as large as the node")
    ballast.ship()
    return app, ballast


def _again(app: App) -> None:
    """``hello`` as its manifest has it: it may have been taken away, or scaled to more than the node has."""
    said = [
        app.lain("scale", "web", "--reset", "--replace", code=None),
        app.ship("--replace", code=None),
        app.lain("start", code=None),
    ]
    try:
        wait_until(lambda: app.get().status == 200, f"{app.name} answers", 120)
    except BaseException as error:
        error.add_note("\n".join(each.out + each.err for each in (*said, app.lain("explain", code=None))))
        raise


def _known(on: Stage, name: str) -> dict[str, str | int]:
    """Parameters of its paths that name what exists."""
    if name == "agent":
        wait_until(lambda: on.cluster.lain("ps", "--app", "hello", "-o", "json").json()["procs"], "hello runs")
        pods = on.cluster.lain("ps", "--app", "hello", "-o", "json").json()["procs"][0]["pods"]
        pod = next(one for one in pods if one["ready"])
        # a log that is followed ends when its pod does: schemathesis would wait for that
        return {"pod": f"hello.web-{pod['instance']}.g{pod['generation']}", "follow": "false"}
    return dict(KNOWN.get(name, {}))


def _strangers(proof: Proof, daemons: Daemons) -> None:
    case = proof.case("callers nobody knows", "requests")
    viewer, once_good = asyncio.run(_tokens(daemons))
    time.sleep(2.0)  # the expired one's second, and the revoked one's way to every daemon
    found = api_fuzz.strangers(daemons, viewer, once_good)
    case.add("lain", found.asked)
    proof.say(f"{found.asked} requests of strangers, {len(found.accepted)} not refused")
    case.target("requests that were not refused", len(found.accepted), at_most=0)
    case.target("5xx", len(found.server_errors), at_most=0)
    _note(proof, case.name, [*found.accepted, *found.server_errors])


async def _tokens(daemons: Daemons) -> tuple[str, dict[str, str]]:
    """A viewer's, and those that were good once, by what became of them."""
    async with daemons.console() as console:
        viewer = await console.issue_token("viewer", Role.VIEWER, apps=["nobodys"])
        expired = await console.issue_token("expired", Role.OPERATOR, expires_in_seconds=1)
        revoked = await console.issue_token("revoked", Role.OPERATOR)
        await console.revoke_token(revoked.token.id)
    return viewer.text, {"an expired token": expired.text, "a revoked token": revoked.text}


async def _standing(daemons: Daemons) -> tuple[ConfigView, Node]:
    """What an operator may change of the cluster, as it stands."""
    async with daemons.console() as console, daemons.deployd() as deployd:
        return await console.config("cluster"), (await deployd.node("n1")).node


async def _put_back(daemons: Daemons, standing: tuple[ConfigView, Node]) -> None:
    """What the fuzzing turned on, off; settings and node as they were; the router a member; nothing under way in hello."""
    config, node = standing
    async with daemons.console() as console, daemons.deployd() as deployd:
        for switch in await deployd.switches():
            await deployd.set_switch(switch.name, switch.name == "guard")
        await console.set_config("cluster", config.value)
        await deployd.register_node(node.name, node.address, node.labels)
        await deployd.change_node(node.name, cordoned=False)
        await deployd.end_drain(node.name)
        await eventually(lambda: _is_idle(console), 300.0, what="nothing is under way in hello")
    daemons.fetch("watcher", "/api/v1/membership/", method="PUT")


async def _is_idle(console: Console) -> bool:
    return await console.operation("hello") is None


def _unready(on: Stage) -> list[str]:
    parts = on.cluster.lain("local", "status", "--name", on.cluster.name, "-o", "json").json()["parts"]
    return [f"{part['name']}: {part['detail']}" for part in parts if not part["ready"]]


def _note(proof: Proof, case: str, breaches: list[str]) -> None:
    for text in breaches[:30]:
        proof.say(f"{case}: {text}")
        proof.cases[case].note(text)
