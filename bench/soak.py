"""An hour of deploys, rollbacks, scaling and kills under light load: nothing grows, no request is lost that no kill explains.

``--rounds`` is its length in minutes. A turn makes every operation once, in an order drawn from the seed, and kills instances (SIGKILL) as
some of them begin. After each, all has to be in order again; where it is then as it was at the start, what is on the node is counted.

- Until a sixth of the time is over (ten minutes of sixty), every daemon is killed too, nginx's processes, the Engine, etcd and the registry
  included. After that no daemon is: a process that began anew a while ago would hide what an old one leaks.
- What is compared: the median of the twelfth of the time after that (minutes 10–15) and of the last twelfth. What etcd keeps of the past,
  its compaction takes away each ten minutes, so that its files grow and shrink by design: for them it is the third after the first sixth
  (minutes 10–30) and the last third, two whole cycles each. A line fitted to all samples since the first sixth is told beside each.
  A run of less than half an hour compares such thirds of everything.
- What is bounded is at its bound when the clock starts: each app that changes has as many ended operations as are kept.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.report import Proof
from bench.stage.cluster import stage
from bench.stage.load import Load, Sample
from bench.stage.node import Node, ShellFailed
from bench.stage.operations import (
    FRESH,
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
)
from bench.stage.order import Look, in_order
from bench.stage.truth import Truth
from bench.stage.usage import usages
from bench.stage.victims import VICTIMS, victim
from lain_console.operations.driver import HISTORY_KEPT
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.etcd import MemberStatus
from lain_shared.model.app import Outcome

if TYPE_CHECKING:
    from bench.__main__ import Options

MINUTES, QUICK_MINUTES = 60, 4
RATE = 50.0
SAMPLE_SECONDS, QUICK_SAMPLE_SECONDS = 10.0, 5.0
KILLS_A_TURN, DAEMON_KILLS_A_TURN = 3, 4
FEWEST_TO_KILL = 2
LEAST_SAMPLED = 0.5
"""Share of the samples that must have been taken: a sample takes a while itself, and while etcd or the Engine is away none can be."""
HOSTS = {name: f"{name}.lain.localhost" for name in (STABLE, MOVING)}
GROWTH = 1.05
SHORT_SECONDS = 1800.0
"""A shorter run has too few samples in a twelfth of its time: thirds are compared."""
MIB = 1024 * 1024
WATCHED = {"console": "console", "controller": "deployd", "agent": "agent", "watcher": "watcher", "etcd": "etcd"}
NGINX = "nginx"
DATABASE = ("etcd: database in use", "etcd: database file", "etcd: memory")
"""What follows etcd's own cycle of compaction."""
OF_ETCD = (*DATABASE, "etcd: keys as of now", "etcd: number of keys")
KILL_EXCUSES_SECONDS = (-1.0, 2.0)
"""A request to the killed instance's app that was due so long before its kill, or so long after, may be explained by it."""
NGINX_EXCUSES_SECONDS = (-1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """Some value at a time (seconds since the clock started)."""

    at: float
    value: float


@dataclass(frozen=True, slots=True)
class Kill:
    """``at``: unix seconds; ``host``: whose requests it may explain; "" of every app: the router's own death."""

    at: float
    host: str


@dataclass(slots=True)
class Log:
    """What was sampled and done. ``series``: name (with its unit) → points."""

    seconds: float
    series: dict[tuple[str, str], list[Point]] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    made: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    missed: int = 0
    """Samples that could not be taken: etcd or the Engine was away."""
    began: float = field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    @property
    def settled_at(self) -> float:
        return self.seconds / 6

    def add(self, name: str, unit: str, value: float) -> None:
        self.series.setdefault((name, unit), []).append(Point(self.now, value))


def run(proof: Proof, options: Options) -> None:
    minutes = options.rounds or (QUICK_MINUTES if options.quick else MINUTES)
    seed = options.seed or 1
    every = QUICK_SAMPLE_SECONDS if options.quick else SAMPLE_SECONDS
    proof.facts.update(minutes=minutes, seed=seed, rate=RATE, sample_seconds=every)
    with (
        stage(proof) as there,
        Node.of(there.cluster.container) as node,
        Node.of(there.cluster.container) as own_shell,
        Truth.of(there.cluster, node) as truth,
    ):
        ground = prepared(proof, there, truth, node)
        if not options.quick:
            fill(ground)
        with Load.running(there.port, list(HOSTS.values()), rate=RATE, address=there.address) as load:
            log, began = Log(minutes * 60), time.time()
            with sampling(log, own_shell, truth, every):
                drive(ground, log, random.Random(seed))
            load.end()
            samples = load.window(began, time.time()).samples
        proof.facts.update(operations=dict(log.made), kills=len(log.kills), samples_missed=log.missed)
        proof.facts["asked_again"] = dict(ground.asked_again.most_common())
        judge(proof, log, samples, every)


def fill(ground: Ground) -> None:
    """Operations until each app that changes has as many of them behind it as are kept."""
    for app, between in ((MOVING, ("env",)), (FRESH, ("undeploy", "first-deploy"))):
        while len(ended(ground, app)) < HISTORY_KEPT:
            for operation in between:
                once(ground, Log(0.0), operation)
        ground.proof.say(f"{app} has {HISTORY_KEPT} ended operations")


# --- what is done -----------------------------------------------------------------------------------------------------


def drive(ground: Ground, log: Log, dice: random.Random) -> None:
    """Turns until the time is over; each ends as it began."""
    number, victims = 0, list[str]()
    while log.now < log.seconds:
        number += 1
        order = turn(dice)
        kills = set(dice.sample(range(len(order)), KILLS_A_TURN))
        deaths = set(dice.sample(range(len(order)), DAEMON_KILLS_A_TURN))
        for at, operation in enumerate(order):
            if at in deaths and log.now < log.settled_at:
                victims = victims or dice.sample(VICTIMS, len(VICTIMS))
                kill_daemon(ground, log, victims.pop(), dice)
            seen = once(ground, log, operation, dice if at in kills else None)
            if operation in LAST.values():
                continue
            count(ground, log, seen)
            if log.now >= log.seconds:
                break
        ground.proof.say(
            f"turn {number}: {log.now / 60:.1f} min, {log.made.total()} operations and kills, {len(log.failed)} failed"
        )


def turn(dice: random.Random) -> list[str]:
    """Every operation once, in any order, one that undoes another right after it (pure)."""
    first = [operation for operation in OPERATIONS if operation not in LAST]
    dice.shuffle(first)
    return [
        one for operation in first for one in (operation, *(undo for undo, done in LAST.items() if done == operation))
    ]


def once(ground: Ground, log: Log, operation: str, dice: random.Random | None = None) -> Look:
    """One operation, from all in order to all in order; with ``dice`` an instance is killed as it begins."""
    seen = in_order(ground.truth, ground.node, GIVE_UP_SECONDS, killed=True)
    ready_for(ground, operation, seen)
    if dice is not None:
        kill_instance(ground, log, seen, dice)
    past = frozenset(ended(ground, app_of(operation)))
    ground.truth.begin(asked(ground, operation, past))(GIVE_UP_SECONDS)
    ground.turn[operation] += (
        2 if operation.startswith("scale") else 1
    )  # to the same counts each time: 3, and back to 2
    log.made[operation] += 1
    seen = in_order(ground.truth, ground.node, GIVE_UP_SECONDS, killed=True)
    came = outcomes(seen, operation, past)
    if any(outcome != Outcome.SUCCEEDED.value for outcome in came):
        log.failed.append(f"{log.now:.0f} s {operation}: {', '.join(came)}")
    return seen


def kill_instance(ground: Ground, log: Log, seen: Look, dice: random.Random) -> None:
    """SIGKILL of one that serves, where another does too."""
    serving = {pod: box.pid for pod, box in seen.pods.items() if pod.split(".")[0] == MOVING and box.pid}
    if len(serving) < FEWEST_TO_KILL:
        return
    try:
        at = ground.node.kill(serving[dice.choice(sorted(serving))])
    except ShellFailed:  # the container was started anew since we looked
        return
    log.kills.append(Kill(at, HOSTS[MOVING]))
    log.made["kill an instance"] += 1
    time.sleep(dice.uniform(0.0, 1.0))


def kill_daemon(ground: Ground, log: Log, who: str, dice: random.Random) -> None:
    at = ground.node.kill(victim(ground.node, who))
    log.made[f"kill {who}"] += 1
    if who.startswith(NGINX):
        log.kills.append(Kill(at, ""))
    time.sleep(dice.uniform(0.0, 2.0))


def count(ground: Ground, log: Log, seen: Look) -> None:
    """What is on the node, all being in order and as it was at the start."""
    node = ground.node
    for what, script in (
        ("containers", "docker ps -aq"),
        ("networks", "docker network ls -q"),
        ("volumes", "docker volume ls -q"),
        ("images", "docker image ls -aq"),
        ("processes", "ps -eo comm= | grep -v -x -e ps -e sh -e grep -e lain-health -e runc"),
        ("mounts", "cat /proc/self/mounts"),
        ("network devices", "ls /sys/class/net"),
    ):
        log.add(f"node: {what}", "", len(node.sh(script).splitlines()))
    log.add("etcd: number of keys", "", float(len(seen.picture.entries)))


# --- what is sampled --------------------------------------------------------------------------------------------------


@contextmanager
def sampling(log: Log, node: Node, truth: Truth, every: float) -> Iterator[None]:
    """Samples in a thread until the block ends."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(every):
            try:
                sample(log, node, truth)
            except (LainError, ShellFailed, KeyError, IndexError, ValueError, TimeoutError):
                log.missed += 1

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def sample(log: Log, node: Node, truth: Truth) -> None:
    boxes = node.parts()
    roots = {name: boxes[part].pid for name, part in WATCHED.items()}
    roots |= {NGINX: node.children(boxes[NGINX].pid)[0], "dockerd": node.pids("dockerd")[0]}
    found = usages(node, roots)
    picture = truth.picture()
    member = next(iter(truth.wait(truth.store.statuses()).values()))
    if not isinstance(member, MemberStatus) or any(not found[name].rss_kib for name in roots):
        raise ValueError("somebody is away")
    for name, usage in found.items():
        log.add(f"{name}: memory", "MiB", usage.rss_kib / 1024)
        log.add(f"{name}: descriptors", "", usage.descriptors)
    log.add("nginx: workers", "", found[NGINX].processes - 1)
    size = sum(len(key) + len(entry.value) for key, entry in picture.entries.items() if key.startswith(keys.ROOT))
    log.add("etcd: keys as of now", "MiB", size / MIB)
    log.add("etcd: database in use", "MiB", member.db_used_bytes / MIB)
    log.add("etcd: database file", "MiB", member.db_bytes / MIB)


# --- judging ----------------------------------------------------------------------------------------------------------

TOLD = ("dockerd: memory", "dockerd: descriptors")
"""Not ours: measured, without a target."""


def judge(proof: Proof, log: Log, samples: Sequence[Sample], every: float) -> None:
    """``every``: seconds from one sample to the next."""
    for (name, unit), points in log.series.items():
        case = proof.case(name, unit)
        early, late = windows(points, log.seconds, whole_cycles=name in DATABASE)
        case.add("first", *(point.value for point in early))
        case.add("last", *(point.value for point in late))
        later = [point for point in points if point.at >= log.settled_at]
        case.add("all since", *(point.value for point in later))
        case.note(f"a fitted line: {100 * trend(later):+.1f} % from minute {log.settled_at / 60:.0f} to the end")
        if name in OF_ETCD and log.seconds < SHORT_SECONDS:
            case.note("told, without a target: what etcd keeps is not at its bound in a run as short as this")
        elif name not in TOLD:
            case.target("the last median by the first", growth(early, late), at_most=GROWTH)
    taken = min(len(log.series.get((f"{name}: memory", "MiB"), ())) for name in (*WATCHED, NGINX))
    case = proof.case("samples")
    case.add("taken", taken)
    case.target("taken of those that were due", taken * every / log.seconds, at_least=LEAST_SAMPLED)
    lost, excused = unexplained(samples, log.kills)
    case = proof.case("requests")
    case.add("lain", len(lost))
    case.target("failed, and no kill of who served them explains it", len(lost), at_most=0)
    case.target("requests", len(samples), at_least=0.95 * RATE * log.seconds)
    case.note(
        f"{len(samples)} requests, {len(log.kills)} kills of those who serve, which explain {len(excused)} failures"
    )
    for kind, ones in (("unexplained", lost), ("explained", excused)):
        case.notes += [
            f"{kind}: {one.due:.3f} {one.host} {one.outcome} after {one.milliseconds:.0f} ms" for one in ones[:20]
        ]
    case = proof.case("operations")
    case.add("lain", len(log.failed))
    case.target("operations that did not succeed", len(log.failed), at_most=0)
    case.notes += log.failed[:20]


def windows(points: Sequence[Point], seconds: float, *, whole_cycles: bool) -> tuple[list[Point], list[Point]]:
    """The points that are compared: at first and at last."""
    began, width = seconds / 6, seconds / (3 if whole_cycles or seconds < SHORT_SECONDS else 12)
    early = [point for point in points if began <= point.at < began + width]
    late = [point for point in points if point.at >= seconds - width]
    return early, late


def growth(early: Sequence[Point], late: Sequence[Point]) -> float:
    """The last median by the first; NaN when there is nothing to compare, 1 when there was and is nothing."""
    if not early or not late:
        return float("nan")
    first, last = (statistics.median(point.value for point in points) for points in (early, late))
    if first == 0:
        return 1.0 if last == 0 else float("inf")
    return last / first


def trend(points: Sequence[Point]) -> float:
    """By what share a line of least squares rises from the first point to the last."""
    if len(points) < 3:
        return 0.0
    line = statistics.linear_regression([point.at for point in points], [point.value for point in points])
    at_first = line.intercept + line.slope * points[0].at
    return line.slope * (points[-1].at - points[0].at) / at_first if at_first else 0.0


def unexplained(samples: Sequence[Sample], kills: Sequence[Kill]) -> tuple[list[Sample], list[Sample]]:
    """The failures that no kill explains, and those that one does."""
    failed = [sample for sample in samples if sample.outcome != "200"]

    def explains(kill: Kill, sample: Sample) -> bool:
        before, after = KILL_EXCUSES_SECONDS if kill.host else NGINX_EXCUSES_SECONDS
        return kill.host in ("", sample.host) and before <= sample.due - kill.at <= after

    lost = [sample for sample in failed if not any(explains(kill, sample) for kill in kills)]
    return lost, [sample for sample in failed if sample not in lost]
