"""The pure parts of the proofs of what is at rest and what grows."""

from __future__ import annotations

import math
import random

import pytest

from bench.kills import LAST, OPERATIONS
from bench.soak import Kill, Point, growth, trend, turn, unexplained, windows
from bench.stage.load import Sample
from bench.stage.usage import Usage, read, tree

SAID = """@ 12
12 (a (b) c) S 1 12 12 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 100 1000 10
VmRSS:\t    2048 kB
Threads:\t9
Pss:                1024 kB
Fds: 14
@ 13
Fds: 0
"""


def test_what_the_kernel_says_is_read_and_who_ended_is_left_out() -> None:
    assert read(SAID) == {12: Usage(1, 2048, 1024, 3.0, 14, 9)}


def test_a_tree_is_a_process_and_all_that_came_of_it() -> None:
    assert tree({2: 1, 3: 2, 4: 3, 5: 1}, 2) == (2, 3, 4)


def test_a_turn_makes_each_operation_once_and_undoes_at_once() -> None:
    order = turn(random.Random(7))  # noqa: S311 - the same each time
    assert sorted(order) == sorted(OPERATIONS)
    assert all(order[order.index(undo) - 1] == done for undo, done in LAST.items())


def test_what_is_compared_lies_after_the_first_sixth_and_at_the_end() -> None:
    points = [Point(float(at), float(at)) for at in range(0, 3600, 10)]
    early, late = windows(points, 3600, whole_cycles=False)
    assert (early[0].at, early[-1].at, late[0].at) == (600, 890, 3300)
    early, late = windows(points, 3600, whole_cycles=True)
    assert (early[0].at, early[-1].at, late[0].at) == (600, 1790, 2400)


@pytest.mark.parametrize(("first", "last", "found"), [(2, 3, 1.5), (0, 0, 1.0), (0, 1, math.inf)])
def test_growth_is_the_last_median_by_the_first(first: float, last: float, found: float) -> None:
    assert growth([Point(0, first)] * 3, [Point(1, last)] * 3) == found
    assert math.isnan(growth([], [Point(1, last)]))


def test_a_line_is_fitted() -> None:
    assert trend([Point(at, 100 + at) for at in range(0, 101, 10)]) == pytest.approx(1.0)
    assert trend([Point(0, 1.0)]) == 0.0


def test_a_failure_is_explained_by_the_kill_of_who_served_it_or_of_the_router_then() -> None:
    def sample(due: float, host: str, outcome: str = "502") -> Sample:
        return Sample(due, 1.0, outcome, host, "")

    samples = [sample(10.5, "a"), sample(10.5, "b"), sample(20.0, "a"), sample(30.2, "b"), sample(40.0, "a", "200")]
    lost, excused = unexplained(samples, [Kill(10.0, "a"), Kill(30.0, "")])
    assert lost == [samples[1], samples[2]]
    assert excused == [samples[0], samples[3]]
