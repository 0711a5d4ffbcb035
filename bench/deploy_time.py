"""From Enter (`lain deploy`, `lain rollback`) to the new version's first answer through the router; the image is on the node, one instance.

Two versions are shipped once, and then deployed in turn; the router is asked all the while. Every step that the operation, the node's
Engine and the command line know of is timed too, each from the one before, so that a slow one is seen.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.watch import Watch
from tests.fixtures.cluster import LAIN, App

if TYPE_CHECKING:
    from bench.__main__ import Options

NAME = "quickly"
ROUNDS = 30
LIMIT_SECONDS = 3.0
ANSWER_SECONDS = 60.0


def run(proof: Proof, options: Options) -> None:
    rounds = options.rounds or (4 if options.quick else ROUNDS)
    with stage(proof) as on:
        app = on.app("slow", NAME)
        app.edit("lain.yaml", lambda text: text.replace("num_instances: 2", "num_instances: 1"))
        one = app.commit("one instance")
        app.ship()
        other = app.commit("another version")
        app.ship()
        timing = Timing(proof, on, app)
        for number in range(1, rounds + 1):
            deploy = timing.take("deploy", one, "deploy", "--version", one)
            rollback = timing.take("rollback", other, "rollback")
            proof.say(f"round {number} of {rounds}: deploy {deploy:.2f} s, rollback {rollback:.2f} s")
    for case in (proof.case("deploy"), proof.case("rollback")):
        case.target("p50 from Enter to the first answer", case.median(), at_most=LIMIT_SECONDS)
        case.target("p95 from Enter to the first answer", case.p95(), at_most=LIMIT_SECONDS)
    proof.facts["rounds"] = rounds


@dataclass(frozen=True, slots=True)
class Timing:
    """The stopwatch: one command at a time."""

    proof: Proof
    on: Stage
    app: App

    def take(self, what: str, version: str, *words: str) -> float:
        """Run ``lain words``; the seconds until ``version`` answered."""
        with Watch.over(self.on.address, self.on.port, self.app.host) as watch:
            entered = time.time()
            ended, said = self._enter(*words)
            answered = watch.since(version, ANSWER_SECONDS)
        if answered is None:
            raise RuntimeError(f"{version} did not answer in {ANSWER_SECONDS:.0f} s")
        case = self.proof.case(what, "s")
        case.add("lain", answered - entered)
        if watch.broken:
            case.note(f"{watch.broken} of {watch.asked} questions got no answer")
        for (_, began), (part, at) in pairwise(self._moments(said.get("operation", said), entered, answered)):
            self.proof.case(f"{what}: {part}", "s").add("lain", at - began)
        self.proof.case(f"{what}: until the command ends", "s").add("lain", ended - entered)
        return answered - entered

    def _enter(self, *words: str) -> tuple[float, dict[str, Any]]:
        with subprocess.Popen(
            [LAIN, *words, "-o", "json"], env=self.app.cluster.environ, cwd=self.app.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as command:  # fmt: skip
            out, err = command.communicate(timeout=300)
        if command.returncode:
            raise RuntimeError(f"lain {' '.join(words)} ended with {command.returncode}\n{out}\n{err}")
        return time.time(), json.loads(out)

    def _moments(self, operation: dict[str, Any], entered: float, answered: float) -> list[tuple[str, float]]:
        """What happened, and when, in order."""
        engine = self.on.engine_events(operation["started_at"], self.app.name)
        pod = next(pod for pod in self.app.proc("web")["pods"] if pod["wanted"])
        rolling = next(step["at"] for step in operation["steps"] if step["text"].startswith("rolling out"))
        return [
            ("Enter", entered),
            ("command line and plan, until it is accepted", operation["started_at"]),
            ("desired written", rolling),
            ("placed, container made", engine["create"]),
            ("container started", engine["start"]),
            ("first good probe", pod["ready_at"]),
            ("routed, first answer", answered),
        ]
