"""Faults of every kind, one at a time: ``lainctl doctor`` names each, and nothing else; what shows it and what to do; and is clean again.

Where the doctor names a command, that command, run as it stands, is what takes the fault away. What a node says of itself is up to half a
minute old, so a fault of a node may be named that much later; so may its end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.__main__ import Options
from bench.report import Proof
from bench.stage.cluster import Stage, stage
from tests.fixtures.cluster import App, LocalCluster
from tests.fixtures.faults import FAULTS, Diagnosis, Fault, ask_doctor, take_doctors_advice

DESCRIPTION = (
    "faults of every kind, one at a time: the doctor names each and nothing else, and its advice takes it away"
)
NAMED_SECONDS = 45.0
"""The agent's look each 30 s, its write, the doctor's own look."""
PATIENCE_SECONDS = 180.0
FEWEST = 15


@dataclass(slots=True)
class Tally:
    """What the proof counts over all faults."""

    named: int = 0
    wrong: list[str] = field(default_factory=list)
    bare: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From making a fault to its name."""
    clean_seconds: list[float] = field(default_factory=list)


def run(proof: Proof, options: Options) -> None:
    tally = Tally()
    with stage(proof) as there:
        cluster = there.cluster
        clean(cluster, "at first")
        chosen = [fault for fault in FAULTS if fault.needs() and (fault.quick or not options.quick)]
        left_out = [fault.name for fault in FAULTS if not fault.needs()]
        for fault in chosen:
            one(proof, cluster, fault, tally)
        if not options.quick:
            for fault in with_apps(there):
                one(proof, cluster, fault, tally)
    case = proof.case("faults")
    case.add("lain", tally.named)
    case.target(
        "named, each for what it is", tally.named, at_least=len(chosen) if options.quick else max(FEWEST, len(chosen))
    )
    case.target("things named that were not there", len(tally.wrong), at_most=0)
    case.target("findings without why, evidence or next command", len(tally.bare), at_most=0)
    case.target("not clean afterwards", len(tally.stuck), at_most=0)
    for text in (*tally.wrong, *tally.bare, *tally.stuck):
        case.note(text)
    for name in left_out:
        case.note(f"left out, for want of what it takes: {name}")
    times = proof.case("named after", "s")
    times.add("lain", *tally.seconds)
    times.target("slowest", times.worst(), at_most=NAMED_SECONDS)
    proof.case("clean again after", "s").add("lain", *tally.clean_seconds)


def one(proof: Proof, cluster: LocalCluster, fault: Fault, tally: Tally) -> None:
    """Make a fault, wait until it is named, look twice at what else is, take it away, wait until nothing is named."""
    with fault.made(cluster) as given:
        began = time.monotonic()
        environ = dict(given) if isinstance(given, Mapping) else None
        told = until(cluster, fault, environ)
        if told is None:
            last = ask_doctor(cluster, environ)
            proof.say(f"{fault.name}: NOT named ({sorted(last.found)})")
            tally.wrong += [f"{fault.name}: {code} ({last.text(code)})" for code in last.found]
            tally.stuck.append(f"{fault.name}: never named {fault.code}")
        else:
            seconds = time.monotonic() - began
            tally.seconds.append(seconds)
            tally.named += 1
            proof.say(f"{fault.name}: {told.found[fault.code]['found']} ({seconds:.1f} s)")
            judge(fault, told, tally)
            judge(fault, ask_doctor(cluster, environ), tally)
        began = time.monotonic()
        if fault.healed_by_doctor and told is not None:
            take_doctors_advice(cluster, told.found[fault.code])
    left = clean(cluster, fault.name)
    if left:
        tally.stuck += [f"{fault.name}: still {text}" for text in left]
    else:
        tally.clean_seconds.append(time.monotonic() - began)


def until(cluster: LocalCluster, fault: Fault, environ: dict[str, str] | None) -> Diagnosis | None:
    """The diagnosis that names it with all that is to show it; None when none does in time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        told = ask_doctor(cluster, environ)
        if fault.code in told.found and all(word in told.text(fault.code) for word in fault.shows):
            return told
        time.sleep(0.5)
    return None


def judge(fault: Fault, told: Diagnosis, tally: Tally) -> None:
    for code in sorted(told.found.keys() - {fault.code, *fault.also}):
        tally.wrong.append(f"{fault.name}: {code} ({told.text(code)})")
    tally.bare += [f"{fault.name}: {code}" for code in told.incomplete]


def clean(cluster: LocalCluster, after: str) -> list[str]:
    """Wait until the doctor finds nothing; what it still finds when it is too late."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        found = ask_doctor(cluster).found
        if not found:
            return []
        if time.monotonic() > deadline:
            if after == "at first":
                raise AssertionError(f"the cluster is not well to begin with: {found}")
            return [f"{code}: {one['found']} {one['evidence']}" for code, one in found.items()]
        time.sleep(0.5)


# --- faults that take an app ------------------------------------------------------------------------------------------

LOOPING = """\
appname: looping
build: {base: lain/python:3.11}
worker:
  type: worker
  cmd: sh -c "sleep 5; echo the licence has expired; exit 7"
  memory: 32m
"""


def with_apps(there: Stage) -> Iterator[Fault]:
    yield Fault(
        "a pod that keeps crashing", "pod_crash_loop", ("exit code 7", "the licence has expired"), looping(there)
    )
    yield Fault("a volume gone", "volume_missing", ("the data of plain.web-1 is gone",), volume_gone(there))


def looping(there: Stage) -> Any:
    @contextmanager
    def made(cluster: LocalCluster) -> Iterator[None]:
        app = there.app("steps", "looping")
        (app.folder / "lain.yaml").write_text(LOOPING)
        app.commit("a worker that ends")
        app.ship()
        try:
            yield
        finally:
            app.undeploy()
            cluster.on_node("rm", "-rf", "/var/lib/lain/volumes/looping")

    return made


def volume_gone(there: Stage) -> Any:
    @contextmanager
    def made(cluster: LocalCluster) -> Iterator[None]:
        app: App = there.app("steps", "plain")
        app.edit("lain.yaml", lambda text: text + "  volumes: [/data]\n")
        app.commit("keeps data")
        app.ship()
        cluster.on_node("mv", "/var/lib/lain/volumes/plain", "/var/lib/lain/plain-away")
        try:
            yield
        finally:
            cluster.on_node("mv", "/var/lib/lain/plain-away", "/var/lib/lain/volumes/plain")
            app.undeploy()

    return made
