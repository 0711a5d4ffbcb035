"""CPU and memory up and down under load: in force within two seconds, nothing restarted, nothing lost; less than is in use is refused.

From Enter (`lain scale`) to the moment at which the node's Engine had put every instance's new limits in force (its own event), and to the
end of the command. A container that was made or started anew would show: its id and start time are compared each time.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.load import Load
from bench.stage.rush import Rush
from tests.fixtures.cluster import App

if TYPE_CHECKING:
    from bench.__main__ import Options

RATE, QUICK_RATE, POST_SHARE = 200.0, 100.0, 0.1
ROUNDS, INSTANCES = 20, 2
LIMIT_SECONDS = 2.0
MIB = 1024 * 1024
CHANGES = (
    ("memory up", ("--memory", "96m"), (96 * MIB, False)),
    ("cpu up", ("--cpu", "4"), (96 * MIB, True)),
    ("memory down", ("--memory", "64m"), (64 * MIB, True)),
    ("cpu down", ("--cpu", "0"), (64 * MIB, False)),
)
"""What is done, how, and what is in force then: bytes of memory, and whether the CPU has a quota."""


@dataclass(frozen=True, slots=True)
class Held:
    """A container and the limits the Engine holds it to."""

    run: tuple[str, str]
    """Id and start time: another one is another run."""
    limits: tuple[int, bool]


def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (2 if options.quick else ROUNDS)
    rate = QUICK_RATE if options.quick else RATE
    with stage(proof) as on:
        app = on.app("slow", "limits")
        app.ship()
        with Load.running(on.port, [app.host], rate=rate, post_share=POST_SHARE, address=on.address) as load:
            rush = Rush(proof, load)
            rush.quiet(8.0 if options.quick else 20.0)
            for number in range(1, rounds + 1):
                for what, words, limits in CHANGES:
                    with rush.doing(what):
                        _change(proof, on, app, (what, words, limits))
                proof.say(f"round {number} of {rounds}")
            with rush.doing("memory below what is in use"):
                _below(proof, on, app)
            rush.judge()
    for what, _, _ in CHANGES:
        case = proof.case(f"{what}: in force", "s")
        case.target("from Enter until every instance has it, the slowest", case.worst(), at_most=LIMIT_SECONDS)
        case = proof.case(f"{what}: until the command ends", "s")
        case.target("from Enter until it is told, the slowest", case.worst(), at_most=LIMIT_SECONDS)
        case = proof.case(f"{what}: containers made or started anew")
        case.target("containers made or started anew", sum(case.samples["lain"]), at_most=0)
    proof.facts.update(rounds=rounds, rate=rate, instances=INSTANCES)


def _change(proof: Proof, on: Stage, app: App, change: tuple[str, tuple[str, ...], tuple[int, bool]]) -> None:
    what, words, limits = change
    before = _held(on, app)
    entered = time.time()
    app.lain("scale", "web", *words)
    ended = time.time()
    after = _held(on, app)
    if [one.limits for one in after] != [limits] * INSTANCES:
        raise RuntimeError(f"{what}: {after}, though the command has ended")
    updated = [at for at in on.engine_moments(entered, app.name, "update") if at > entered]
    if len(updated) != INSTANCES:
        raise RuntimeError(f"{what}: {len(updated)} containers were changed, not {INSTANCES}")
    proof.case(f"{what}: in force", "s").add("lain", max(updated) - entered)
    proof.case(f"{what}: until the command ends", "s").add("lain", ended - entered)
    anew = {one.run for one in after} ^ {one.run for one in before}
    proof.case(f"{what}: containers made or started anew").add("lain", len(anew))


def _below(proof: Proof, on: Stage, app: App) -> None:
    """Less than is in use: refused soon, with the number, and everything is as it was."""
    before = _held(on, app)
    entered = time.time()
    refused = app.lain("scale", "web", "--memory", "8m", code=None)
    took = time.time() - entered
    number = re.search(r"([0-9.]+) MiB are in use", refused.err)
    case = proof.case("memory below what is in use: until it is refused", "s")
    case.add("lain", took)
    case.target("it is refused", refused.code, at_least=1)
    case.target("with the MiB in use", float(number[1]) if number else 0.0, at_least=8.0)
    case.target("from Enter", took, at_most=LIMIT_SECONDS)
    case.target("containers otherwise than before", len({*before} ^ {*_held(on, app)}), at_most=0)
    case.notes += refused.err.strip().splitlines()[-4:]


def _held(on: Stage, app: App) -> tuple[Held, ...]:
    ids = on.docker("ps", "-q", "--no-trunc", "--filter", f"name=^{app.name}.web").split()
    found = []
    for one in json.loads(on.docker("inspect", *ids)):
        host = one["HostConfig"]
        found.append(Held((one["Id"], one["State"]["StartedAt"]), (host["Memory"], host["CpuQuota"] > 0)))
    return tuple(sorted(found, key=lambda held: held.run))
