"""Nothing is lost while everything changes: 500 requests/s through a hundred deploys, rollbacks, scaling, and each daemon's upgrade.

The app answers in 50–500 ms, every tenth request is a POST; 50 WebSockets of another app are open throughout. Deploys alternate between two
pushed versions; every tenth is beside that the first of a new app with a new host, which is asked too from then on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.load import Load
from bench.stage.rush import Rush, Span, judge_gap
from bench.stage.sockets import Sockets
from bench.stage.watch import Watch
from tests.fixtures.cluster import App

if TYPE_CHECKING:
    from bench.__main__ import Options

RATE, QUICK_RATE, POST_SHARE = 500.0, 150.0, 0.1
ROUNDS, NEW_EVERY = 100, 10
SOCKETS, OWN_SOCKETS = 50, 20
UPGRADED = ("console", "deployd", "agent", "watcher", "registry", "etcd")
NGINX_GAP_SECONDS = 1.0
GOING_AWAY = 1001


@dataclass(slots=True)
class Show:
    """The apps on stage and what is done to them."""

    proof: Proof
    on: Stage
    app: App
    versions: tuple[str, str]
    rate: float
    fresh: list[App]
    hosts: list[str] = field(default_factory=list)
    turn: int = 0

    def deploy(self) -> None:
        """The other of the two versions."""
        self.turn += 1
        self.app.lain("deploy", "--version", self.versions[self.turn % 2])


def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (5 if options.quick else ROUNDS)
    again = 1 if options.quick else 5
    with stage(proof) as on:
        show = _set(proof, on, rate=QUICK_RATE if options.quick else RATE, fresh=max(1, rounds // NEW_EVERY))
        with Sockets.held(on.port, "talk.lain.localhost", SOCKETS, address=on.address) as sockets:
            with _load(show) as rush:
                rush.quiet(8.0 if options.quick else 30.0)
                _deploys(show, rush, rounds, new_every=2 if options.quick else NEW_EVERY)
                _changes(show, rush, again)
                _upgrades(show, rush, again=1 if options.quick else 2)
                with _own_sockets(show) as own, rush.doing("deploy with WebSockets of its own"):
                    show.deploy()
                    own.wait_ended()
                rush.judge()
            lost = len(sockets.ended)
            case = proof.case("WebSockets of another app, open throughout")
            case.add("lain", lost)
            case.target(f"lost of {SOCKETS}", lost, at_most=0)
            case.target("messages echoed", sockets.echoes, at_least=SOCKETS)
            for end in sockets.ended[:10]:
                case.note(f"{end}")
        _nginx(show, seconds=4.0 if options.quick else 10.0)
    proof.facts.update(rounds=rounds, rate=show.rate, post_share=POST_SHARE, sockets=SOCKETS)


def _set(proof: Proof, on: Stage, *, rate: float, fresh: int) -> Show:
    """Everything built and pushed beforehand: a build is no part of a deploy."""
    app = on.app("slow", "busy")
    app.ship()
    versions = [app.lain("meta").out.strip(), app.commit("another version")]
    app.lain("build")
    app.lain("push")
    talk = on.app("slow", "talk")
    talk.ship()
    new = [on.app("slow", f"fresh-{number + 1}") for number in range(fresh)]
    for one in new:
        one.lain("reposit")
        one.lain("build")
        one.lain("push")
    proof.say(f"on stage: busy in two versions, talk, {len(new)} apps to come")
    return Show(proof, on, app, (versions[0], versions[1]), rate, new, [app.host])


@contextlib.contextmanager
def _load(show: Show) -> Iterator[Rush]:
    on = show.on
    with Load.running(on.port, [show.app.host], rate=show.rate, post_share=POST_SHARE, address=on.address) as load:
        yield Rush(show.proof, load)


def _deploys(show: Show, rush: Rush, rounds: int, *, new_every: int) -> None:
    took = show.proof.case("deploy of 2 instances under load, until the command ends", "s")
    for number in range(1, rounds + 1):
        with rush.doing("deploys"):
            began = time.monotonic()
            show.deploy()
            took.add("lain", time.monotonic() - began)
        if number % new_every == 0 and show.fresh:
            with rush.doing("deploys of new apps"):
                _first_deploy(show, rush)
        if number % 10 == 0 or number == rounds:
            show.proof.say(f"deploy {number} of {rounds}: {took.median():.1f} s each")


def _first_deploy(show: Show, rush: Rush) -> None:
    """A new app's host: unknown, then served; nothing in between, and asked like the others from then on."""
    app = show.fresh.pop(0)
    with Watch.over(show.on.address, show.on.port, app.host) as watch:
        app.lain("deploy")
        served = watch.since(app.name, 10.0)
    odd = [f"{status} {body[:100]}" for status, body in watch.first if status not in (200, 404)]
    case = show.proof.case("a new host, asked while it comes")
    case.add("lain", len(odd))
    if served is None:
        case.note(f"{app.host} did not answer")
    case.target(f"{app.host}: answers other than 404 before and 200 after", len(odd) + (served is None), at_most=0)
    case.notes.extend(odd)
    show.hosts.append(app.host)
    rush.load.hosts(*show.hosts)


def _changes(show: Show, rush: Rush, times: int) -> None:
    app = show.app
    for _ in range(times):
        for what, words in (
            ("rollback", ("rollback",)),
            ("scale up", ("scale", "web", "-n", "4")),
            ("scale down", ("scale", "web", "-n", "2")),
            ("cpu up", ("scale", "web", "--cpu", "1")),
            ("memory up", ("scale", "web", "--memory", "96m")),
            ("memory down", ("scale", "web", "--memory", "64m")),
            ("cpu down", ("scale", "web", "--cpu", "0")),
            ("restart", ("restart", "web")),
        ):
            with rush.doing(what):
                app.lain(*words)
                time.sleep(1.0)  # what it brought about may show a moment later
    show.proof.say("rolled back, scaled, changed")


def _upgrades(show: Show, rush: Rush, again: int) -> None:
    for _ in range(again):
        for part in UPGRADED:
            with rush.doing(f"upgrade of {part}"):
                show.on.upgrade(part)
                show.on.wait_ready(part)
                show.deploy()  # it does its work
            show.proof.say(f"{part} was replaced, and a deploy made")


@dataclass(slots=True)
class OwnSockets:
    """WebSockets on the app that is deployed."""

    held: Sockets

    def wait_ended(self, seconds: float = 60.0) -> None:
        """Until the pods they were on are gone."""
        deadline = time.monotonic() + seconds
        while len(self.held.ended) < self.held.count and time.monotonic() < deadline:
            time.sleep(0.1)


@contextlib.contextmanager
def _own_sockets(show: Show) -> Iterator[OwnSockets]:
    on = show.on
    with Sockets.held(on.port, show.app.host, OWN_SOCKETS, address=on.address) as held:
        yield OwnSockets(held)
    case = show.proof.case("WebSockets of the deployed app")
    told = sum(end.code == GOING_AWAY for end in held.ended)
    case.add("lain", *(end.code or 0 for end in held.ended))
    case.target(f"of {OWN_SOCKETS} got a close frame, going away (1001)", told, at_least=OWN_SOCKETS)
    for end in held.ended:
        if end.code != GOING_AWAY:
            case.note(f"{end}")


def _nginx(show: Show, seconds: float) -> None:
    """nginx itself: only what it has in hand may be lost, and nothing that comes a second later."""
    with _load(show) as rush:
        rush.load.hosts(*show.hosts)
        time.sleep(seconds)
        began = time.time()
        show.on.upgrade("nginx")
        show.on.wait_ready("nginx")
        replaced = time.time()
        time.sleep(seconds)
        span = Span("upgrade of nginx", began, time.time())
        case = show.proof.case("upgrade of nginx: from the first failed request to the last", "s")
        window = judge_gap(case, rush.load, span, at_most=NGINX_GAP_SECONDS)
    case.note(
        f"{len(window.failures)} of {window.requests} requests failed; it was replaced in {replaced - began:.1f} s"
    )
