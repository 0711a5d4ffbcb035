"""SIGKILL of every daemon at random points of every operation: it converges, nothing is left over, nobody is unrouted.

A schedule drawn from the seed: every victim meets every operation, at a random moment of it. Before each kill all is in order; after it
everything has to be in order again by itself, as ``stage/order.py`` judges, and what the operation did not touch must be the same process.
A person whose request broke asks again, as the command line would.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bench.__main__ import Options
from bench.report import Case, Proof
from bench.stage.cluster import stage
from bench.stage.load import Load, Sample
from bench.stage.node import NODE, Node, ShellFailed
from bench.stage.operations import (
    GIVE_UP_SECONDS,
    LAST,
    MOVING,
    OPERATIONS,
    STABLE,
    Ground,
    app_of,
    asked,
    ended,
    outcomes,
    prepared,
    ready_for,
    settled,
)
from bench.stage.order import Look, look
from bench.stage.truth import Seen, Truth
from bench.stage.victims import VICTIMS, Back, victim
from lain_cli.local import images
from lain_cli.local.platform import Site, parts, run_argv
from lain_shared import keys
from lain_shared.model.app import Outcome

DESCRIPTION = (
    "kill -9 of every daemon at random points of every operation: converges, nothing left over, nobody unrouted"
)
CONVERGED_SECONDS = 30.0
UNROUTED_SECONDS = 1.0
LEADER_SECONDS = 3.0
RESTART_RESETS_SECONDS = 10.0
"""A container that ran for so long is started again at once when it dies (dockerd's restart manager)."""
PROBES_A_SECOND = 40.0
SLOW_ANSWER_SECONDS = 1.0
HOST = f"{STABLE}.lain.localhost"


@dataclass(frozen=True, slots=True)
class Kill:
    """One round: ``after`` is the share of the operation's calm duration that passes before the kill."""

    operation: str
    victim: str
    after: float


def schedule(rounds: int, seed: int) -> tuple[Kill, ...]:
    """The same for the same seed: every pair of victim and operation about equally often, in random order, at random moments (pure)."""
    dice = random.Random(seed)
    victims: dict[str, list[str]] = {}
    for operation in OPERATIONS:
        drawn: list[str] = []
        while len(drawn) * len(OPERATIONS) < rounds:
            turn = list(VICTIMS)
            dice.shuffle(turn)
            drawn += turn
        victims[operation] = drawn
    kills: list[Kill] = []
    while len(kills) < rounds:
        turn = [operation for operation in OPERATIONS if operation not in LAST]
        dice.shuffle(turn)
        for operation in turn:
            undone = [undo for undo, done in LAST.items() if done == operation]
            kills.extend(Kill(one, victims[one].pop(), dice.uniform(0.0, 1.1)) for one in (operation, *undone))
    return tuple(kills[:rounds])


@dataclass(frozen=True, slots=True)
class Round:
    """What came of one kill. Times are unix seconds; ``back_at``: the victim does its work again."""

    kill: Kill
    began: float
    killed_at: float
    converged_at: float | None
    back_at: float | None
    wrong: tuple[str, ...]
    outcome: str


def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (len(VICTIMS) * 2 if options.quick else 216)
    seed = options.seed or 1
    kills = schedule(rounds, seed)
    proof.facts.update(seed=seed, kills=len(kills), schedule=[f"{k.operation} {k.victim} {k.after:.2f}" for k in kills])
    proof.say(f"seed {seed}, {len(kills)} kills")
    with (
        stage(proof) as there,
        Node.of(there.cluster.container) as node,
        Truth.of(there.cluster, node) as truth,
    ):
        ground = prepared(proof, there, truth, node)
        calm = calm_times(ground)
        done: list[Round] = []
        with Load.running(80, [HOST], rate=PROBES_A_SECOND, path="/fast", address=truth.address) as load:
            began = time.time()
            for number, kill in enumerate(kills, 1):
                done.append(one_round(ground, kill, calm[kill.operation]))
                tell(proof, number, done[-1])
            watched_seconds = time.time() - 0.5 - began
            judged(proof, ground, done, load.window(began, began + watched_seconds).samples, watched_seconds)
        leaders(ground, 2 if options.quick else 10, random.Random(seed))


# --- a round ----------------------------------------------------------------------------------------------------------


def one_round(ground: Ground, kill: Kill, calm_seconds: float) -> Round:
    before = settled(ground)
    ready_for(ground, kill.operation, before)
    pid = victim(ground.node, kill.victim)
    past = frozenset(ended(ground, app_of(kill.operation)))
    began = time.time()
    answer = ground.truth.begin(asked(ground, kill.operation, past))
    time.sleep(kill.after * calm_seconds)
    killed_at = ground.node.kill(pid)
    back = Back(ground.node, kill.victim, pid)
    deadline = killed_at + GIVE_UP_SECONDS
    answer(GIVE_UP_SECONDS)
    ground.turn[kill.operation] += 1
    after: Look | None = None
    wrong: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    back_at = back.wait(deadline)
    while True:
        after, wrong = look(ground.truth, ground.node)
        if after is not None and not wrong and (new := outcomes(after, kill.operation, past)):
            break
        if time.time() > deadline:
            break
        time.sleep(0.1)
    converged_at = time.time() if new and back_at is not None else None
    if after is not None:
        wrong = (*wrong, *touched(before, after, kill))
    return Round(kill, began, killed_at, converged_at, back_at, wrong, ", ".join(new) or "never began")


def touched(before: Look, after: Look, kill: Kill) -> Iterator[str]:
    """What is another process than before though nobody asked for that."""
    for name, box in before.parts.items():
        if name != kill.victim and after.parts[name].run != box.run:
            yield f"{name} was restarted by the death of {kill.victim}"
    for pod, box in before.pods.items():
        now = after.pods.get(pod)
        if now is not None and now.run != box.run:
            yield f"{pod} is another container than before"
        if now is None and (pod.startswith(f"{STABLE}.") or kill.operation in ("cpu", "scale-up", "start")):
            yield f"{pod} was replaced"


def calm_times(ground: Ground) -> dict[str, float]:
    """Each operation once with nobody killed: from the request until everything is in order."""
    case = ground.proof.case("operation to order, nobody killed", unit="s")
    found: dict[str, float] = {}
    for operation in OPERATIONS:
        ready_for(ground, operation, settled(ground))
        past = frozenset(ended(ground, app_of(operation)))
        began = time.time()
        ground.truth.begin(asked(ground, operation, past))(GIVE_UP_SECONDS)
        ground.turn[operation] += 1
        seen = settled(ground)
        found[operation] = time.time() - began
        case.add("lain", found[operation])
        ground.proof.say(f"calm {operation}: {found[operation]:.1f} s, {', '.join(outcomes(seen, operation, past))}")
    return found


# --- judging ----------------------------------------------------------------------------------------------------------


def tell(proof: Proof, number: int, done: Round) -> None:
    kill = done.kill
    took = f"{done.converged_at - done.killed_at:.1f} s" if done.converged_at is not None else "NOT CONVERGED"
    trouble = "".join(f"\n             {text}" for text in done.wrong)
    proof.say(f"{number:3} {kill.victim} at {kill.after:.2f} of {kill.operation}: {took}, {done.outcome}{trouble}")


def judged(
    proof: Proof, ground: Ground, done: Sequence[Round], probes: Sequence[Sample], watched_seconds: float
) -> None:
    converged = proof.case("killed to order", unit="s")
    for one in done:
        seconds = (one.converged_at or one.killed_at + GIVE_UP_SECONDS) - one.killed_at
        converged.add("lain", seconds)
        proof.case(f"{one.kill.victim} killed to order", unit="s").add("lain", seconds)
        if one.back_at is not None:
            proof.case(f"{one.kill.victim} killed to working again", unit="s").add("lain", one.back_at - one.killed_at)
    converged.target("the slowest", converged.worst(), at_most=CONVERGED_SECONDS)
    converged.target("kills", len(done), at_least=1)
    left = proof.case("left over or touched")
    for one in done:
        for text in one.wrong:
            left.note(f"{one.kill.victim} at {one.kill.after:.2f} of {one.kill.operation}: {text}")
    left.target("rounds with anything not in order", sum(bool(one.wrong) for one in done), at_most=0)
    failed = [one for one in done if one.outcome != Outcome.SUCCEEDED.value]
    ends = proof.case("operations")
    for one in failed:
        ends.note(f"{one.kill.victim} at {one.kill.after:.2f} of {one.kill.operation}: {one.outcome}")
    ends.target("operations that a kill made fail", len(failed), at_most=0)
    proof.facts["asked_again"] = dict(ground.asked_again.most_common())
    routed(proof, done, probes, watched_seconds)


def routed(proof: Proof, done: Sequence[Round], probes: Sequence[Sample], watched_seconds: float) -> None:
    """A probe that failed is excused only if nginx's own death broke its connection: it was out then, or came within a second of it."""
    case = proof.case("nobody unrouted", unit="s")
    starts = [float("-inf"), *(one.began for one in done[1:])]
    unexcused = 0
    for one, since, until in zip(done, starts, [*starts[1:], float("inf")], strict=True):
        bad = [
            probe
            for probe in probes
            if since <= probe.due < until
            and (probe.outcome != "200" or probe.milliseconds > 1000 * SLOW_ANSWER_SECONDS)
        ]
        if one.kill.victim in ("nginx-master", "nginx-worker"):
            span = max((probe.due - one.killed_at + 1 / PROBES_A_SECOND for probe in bad), default=0.0)
            case.add(one.kill.victim, max(span, 0.0))
            bad = [probe for probe in bad if not _was_broken_by(one, probe)]
        unexcused += len(bad)
        for probe in bad[:3]:
            case.note(
                f"{one.kill.victim} at {one.kill.after:.2f} of {one.kill.operation}: {probe.outcome} after "
                f"{probe.milliseconds:.0f} ms, {probe.due - one.killed_at:+.2f} s from the kill"
            )
    worst = max((case.worst(name) for name in case.samples), default=0.0)
    case.target("longest without an answer after nginx's own death", worst, at_most=UNROUTED_SECONDS)
    case.target("requests that nothing excuses", unexcused, at_most=0)
    case.target("requests", len(probes), at_least=0.95 * PROBES_A_SECOND * watched_seconds)
    proof.facts["probes"] = len(probes)


def _was_broken_by(one: Round, probe: Sample) -> bool:
    ended = probe.due + probe.milliseconds / 1000
    return not probe.outcome.isdigit() and one.killed_at <= ended and probe.due <= one.killed_at + UNROUTED_SECONDS


# --- who leads --------------------------------------------------------------------------------------------------------


def leaders(ground: Ground, rounds: int, dice: random.Random) -> None:
    """Kill the leader in the middle of a rollout: how long until another has decided something."""
    case = ground.proof.case("leader killed to the first decision of the next", unit="s")
    ground.truth.ask(lambda console: console.scale(MOVING, "web", 4))
    settled(ground)
    with second_controller(ground):
        for _ in range(rounds):
            lead_round(ground, case, "another replica", dice)
    case.note("the same, restarted: it has run for ten seconds; of one that dies sooner Docker waits longer each time")
    for _ in range(rounds):
        time.sleep(RESTART_RESETS_SECONDS)
        lead_round(ground, case, "the same, restarted", dice)
    for name in case.samples:
        case.target(f"{name}: the slowest", case.worst(name), at_most=LEADER_SECONDS)


def lead_round(ground: Ground, case: Case, contender: str, dice: random.Random) -> None:
    truth, node = ground.truth, ground.node
    settled(ground)
    leader = truth.picture().entries[keys.LEADER.key("deployd")]
    names = {True: "deployd-second", False: "deployd"}
    box = next(b for b in node.boxes() if b.name == f"lain-{names[b'second' in leader.value]}")
    truth.ask(lambda console: console.restart(MOVING))
    time.sleep(dice.uniform(0.1, 1.5))
    killed_at = node.kill(box.pid)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.05)
        reign = next((s for s in truth.seen if s.at > killed_at and s.change.key == leader.key and s.change.value
                      and s.change.create_revision > leader.create_revision), None)  # fmt: skip
        decided = reign and next(
            (s for s in truth.seen if s.change.revision > reign.change.revision and _is_decision(s)), None
        )
        if decided:
            case.add(contender, decided.at - killed_at)
            ground.proof.say(f"{contender}: {decided.at - killed_at:.2f} s, {decided.change.key}")
            return
    case.add(contender, 30.0)


def _is_decision(seen: Seen) -> bool:
    return seen.change.key.startswith((keys.ASSIGN.prefix, keys.ENDPOINTS.prefix, keys.STATUS.prefix))


@contextmanager
def second_controller(ground: Ground) -> Iterator[None]:
    """Another replica of the controller on the node, until the block ends; then the first one leads again."""
    node, address = ground.node, ground.truth.address
    part = next(one for one in parts(Site(NODE, address)) if one.name == "deployd")
    tag = next(image.tag for image in images.PLATFORM if image.name == part.image)
    environment = {**part.environment, "LAIN_DEPLOYD_ID": "second", "LAIN_DEPLOYD_PORT": "9512"}
    environment["LAIN_HEALTH_URL"] = "https://127.0.0.1:9512/readyz"
    other = dataclasses.replace(part, name="deployd-second", environment=environment)
    node.run("docker", *run_argv(other, tag, node.run("docker", "image", "inspect", "--format", "{{.Id}}", tag)))
    try:
        _until(lambda: node.run("lain-health", "https://127.0.0.1:9512/readyz", "/etc/lain/ca"))
        yield
    finally:
        node.run("docker", "rm", "--force", other.container)


def _until(done: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            done()
            return
        except ShellFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
