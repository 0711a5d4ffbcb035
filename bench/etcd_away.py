"""etcd stopped for five minutes under load, agent, watcher and controller restarted meanwhile: nothing is lost, moved or restarted.

The console says 503 and why; once etcd is back everything converges and a deploy works at once. Then, apart, etcd is stopped again and
nginx restarted: only its own second is missed.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.load import Load
from bench.stage.node import Node
from bench.stage.rush import Rush, Span, judge_gap
from bench.stage.sockets import Sockets
from tests.fixtures.cluster import App

if TYPE_CHECKING:
    from bench.__main__ import Options

RATE, QUICK_RATE, POST_SHARE = 200.0, 100.0, 0.1
SOCKETS = 50
AWAY_SECONDS, QUICK_AWAY_SECONDS = 300.0, 30.0
NGINX_GAP_SECONDS = 1.0
BACK_SECONDS = 30.0
START_SECONDS = 15.0
WATCHER_SECONDS = 15.0
"""After so long a watcher that was started without etcd lets nginx serve the last table."""
UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Show:
    proof: Proof
    on: Stage
    node: Node
    app: App
    versions: tuple[str, str]

    def runs(self) -> dict[str, tuple[str, str, int]]:
        """Every pod's container by name: its id, start time and restarts."""
        return {box.name: box.run for box in self.node.boxes() if box.pod}


def run(proof: Proof, options: Options) -> None:
    seconds = QUICK_AWAY_SECONDS if options.quick else AWAY_SECONDS
    rate = QUICK_RATE if options.quick else RATE
    with stage(proof) as on, Node.of(on.cluster.container) as node:
        show = _set(proof, on, node)
        with (
            Sockets.held(on.port, show.app.host, SOCKETS, address=on.address) as sockets,
            Load.running(on.port, [show.app.host], rate=rate, post_share=POST_SHARE, address=on.address) as load,
        ):
            rush = Rush(proof, load)
            rush.quiet(8.0 if options.quick else 30.0)
            _away(show, rush, seconds)
            _sockets(proof, sockets)
            _deploy(show, rush)
            rush.judge()
        with Load.running(on.port, [show.app.host], rate=rate, post_share=POST_SHARE, address=on.address) as load:
            _nginx(show, load, seconds=6.0 if options.quick else 30.0)
    proof.facts.update(away_seconds=seconds, rate=rate, post_share=POST_SHARE, sockets=SOCKETS)


def _set(proof: Proof, on: Stage, node: Node) -> Show:
    app = on.app("slow", "steady")
    app.ship()
    first = app.lain("meta").out.strip()
    second = app.commit("another version")
    app.lain("build")
    app.lain("push")
    proof.say("on stage: steady, and a second version of it")
    return Show(proof, on, node, app, (first, second))


def _away(show: Show, rush: Rush, seconds: float) -> None:
    proof, node = show.proof, show.node
    before = show.runs()
    with rush.doing("etcd away"):
        began = time.monotonic()
        node.run("docker", "stop", "lain-etcd")
        for share, part in (
            (0.1, None),
            (0.2, "agent"),
            (0.35, "watcher"),
            (0.5, "deployd"),
            (0.65, "console"),
            (0.9, None),
        ):
            time.sleep(max(0.0, began + share * seconds - time.monotonic()))
            if part is not None:
                node.run("docker", "restart", f"lain-{part}")
                proof.say(f"{part} was restarted, etcd is away")
            else:
                _console_says(show)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
    with rush.doing("etcd back"):
        back = time.monotonic()
        node.run("docker", "start", "lain-etcd")
        for part in ("etcd", "console", "deployd", "agent", "watcher", "nginx"):
            show.on.wait_ready(part, 120.0)
        converged = time.monotonic() - back
        time.sleep(5.0)  # what it might bring about shows now
    after = show.runs()
    case = proof.case("until every part is ready again", "s")
    case.add("lain", converged)
    case.target("from etcd's start", converged, at_most=BACK_SECONDS)
    moved = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    case = proof.case("containers moved, made or restarted")
    case.add("lain", len(moved))
    case.target("of those that ran before", len(moved), at_most=0)
    case.notes += sorted(moved)


def _sockets(proof: Proof, sockets: Sockets) -> None:
    case = proof.case("WebSockets, open throughout")
    case.add("lain", len(sockets.ended))
    case.target(f"lost of {sockets.count}", len(sockets.ended), at_most=0)
    case.notes += [str(end) for end in sockets.ended[:10]]


def _deploy(show: Show, rush: Rush) -> None:
    """Works at once. (The app's own WebSockets end with its old pods: they were counted before.)"""
    with rush.doing("a deploy, at once"):
        began = time.monotonic()
        done = show.app.lain("deploy", "--version", show.versions[1], code=None)
        took = time.monotonic() - began
    case = show.proof.case("the first deploy after it", "s")
    case.add("lain", took)
    case.target("its exit code", done.code, at_most=0)
    if done.code:
        case.note(done.err[-500:])


def _console_says(show: Show) -> None:
    """503 with why, soon; and the command line tells a person the same."""
    status, text, took = _ask_console(show)
    case = show.proof.case("the console, etcd away: until it answers", "s")
    case.add("lain", took)
    case.target("its status", float(status), at_least=UNAVAILABLE, at_most=UNAVAILABLE)
    try:
        said = json.loads(text)["error"]
    except (ValueError, KeyError):
        said = {}
    case.target("says what and why in words", len(said.get("message", "")) * len(said.get("why", "")), at_least=1)
    case.note(text[:300])
    told = show.app.lain("ps", code=None)
    case.target("exit code of `lain ps` (6: unreachable)", told.code, at_least=6, at_most=6)
    case.notes += told.err.strip().splitlines()[:3]


def _ask_console(show: Show) -> tuple[int, str, float]:
    """Status, body and seconds. One that is only just being started is asked again."""
    cluster = show.on.cluster
    phase = yaml.safe_load((cluster.home / "lain.conf.yaml").read_text())[cluster.name]
    trust = ssl.create_default_context(cafile=phase["ca"])
    deadline = time.monotonic() + START_SECONDS
    while True:
        began = time.monotonic()
        connection = http.client.HTTPSConnection("127.0.0.1", cluster.ports["console"], timeout=30, context=trust)
        try:
            headers = {"Authorization": f"Bearer {phase['token']}"}
            connection.request("GET", f"/api/v1/apps/{show.app.name}/", headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace"), time.monotonic() - began
        except OSError as error:
            if time.monotonic() > deadline:
                return 0, repr(error), time.monotonic() - began
            time.sleep(0.2)
        finally:
            connection.close()


def _nginx(show: Show, load: Load, seconds: float) -> None:
    """nginx restarted while etcd is away, the watcher having been restarted too: it serves the last good table again."""
    node = show.node
    time.sleep(seconds)
    node.run("docker", "stop", "lain-etcd")
    node.run("docker", "restart", "lain-watcher")
    time.sleep(WATCHER_SECONDS)
    began = time.time()
    node.run("docker", "restart", "lain-nginx")
    time.sleep(seconds)
    span = Span("nginx restarted, etcd away", began, time.time())
    node.run("docker", "start", "lain-etcd")
    case = show.proof.case("nginx restarted, etcd away: from the first failed request to the last", "s")
    window = judge_gap(case, load, span, at_most=NGINX_GAP_SECONDS)
    case.note(f"{len(window.failures)} of {window.requests} requests failed")
    show.on.wait_ready("etcd")
