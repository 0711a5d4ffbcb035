"""A proof must be able to miss its target: of a load or a sampler that ended early it holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bench.kills import PROBES_A_SECOND, Kill, Round, routed
from bench.report import Proof
from bench.soak import Log, judge
from bench.stage.load import Load, Sample
from bench.stage.rush import Span, judge_gap

SECONDS = 20.0
RATE = 50.0


def sample(due: float, outcome: str = "200", milliseconds: float = 5.0) -> Sample:
    return Sample(due, milliseconds, outcome, "a", "")


def answered(rate: float, seconds: float) -> list[Sample]:
    return [sample(1000.0 + number / rate) for number in range(int(rate * seconds))]


def met(proof: Proof, case: str) -> dict[str, bool]:
    return {target.says: target.met for target in proof.cases[case].targets}


@pytest.mark.parametrize(("share", "whole"), [(1.0, True), (0.5, False)])
def test_a_gap_is_one_of_a_load_that_went_on(tmp_path: Path, share: float, whole: bool) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{one.due:.4f}\t5.00\t200\ta\t\n" for one in answered(RATE, SECONDS * share)))
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, text=True)
    proof = Proof("x", {})
    judge_gap(proof.case("gap"), Load(process, log, RATE), Span("x", 1000.0, 1000.0 + SECONDS), at_most=1.0)
    assert met(proof, "gap") == {"gap": True, "requests": whole}


KILL = Round(Kill("deploy", "nginx-worker", 0.5), 1001.0, 1005.0, 1006.0, 1005.5, (), "succeeded")


@pytest.mark.parametrize(
    ("bad", "excused"),
    [
        (sample(1005.1, "reset before the answer"), True),
        (sample(1004.9, "closed before the answer", 200.0), True),
        (sample(1004.0, "reset before the answer"), False),
        (sample(1006.5, "reset before the answer"), False),
        (sample(1005.1, "502"), False),
    ],
    ids=["after", "out at the time", "long before", "long after", "an answer"],
)
def test_the_death_of_a_worker_excuses_what_it_broke(bad: Sample, excused: bool) -> None:
    proof = Proof("x", {})
    routed(proof, [KILL], [*answered(PROBES_A_SECOND, SECONDS), bad], SECONDS)
    assert met(proof, "nobody unrouted")["requests that nothing excuses"] is excused


def test_nobody_is_routed_who_was_not_asked() -> None:
    proof = Proof("x", {})
    routed(proof, [KILL], answered(PROBES_A_SECOND, SECONDS / 2), SECONDS)
    assert not met(proof, "nobody unrouted")["requests"]


def test_a_soak_that_sampled_nothing_shows_nothing() -> None:
    proof, log = Proof("x", {}), Log(SECONDS)
    judge(proof, log, answered(RATE, SECONDS), 1.0)
    assert not met(proof, "samples")["taken of those that were due"]
