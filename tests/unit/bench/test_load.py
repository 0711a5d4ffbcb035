"""What a proof counts of its load: every request that was due, those that hang most of all."""

from __future__ import annotations

from bench.stage.load import Sample, outstanding

RATE = 50.0


def sample(number: int) -> Sample:
    """Written down to the tenth of a millisecond, as the generator does."""
    return Sample(round(1000.00004 + number / RATE, 4), 5.0, "200", "a", "")


def test_a_request_that_hangs_is_waited_for() -> None:
    answered = [sample(number) for number in range(500) if number != 137]
    assert outstanding(answered, 1001.0, 1004.0, RATE) == 1
    assert outstanding(answered, 1004.0, 1009.0, RATE) == 0
    assert outstanding([*answered, sample(137)], 1001.0, 1004.0, RATE) == 0


def test_what_was_not_due_is_not_waited_for() -> None:
    answered = [sample(number) for number in range(100)]
    assert outstanding(answered, 990.0, 1001.99, RATE) == 0, "nothing was due before it began"
    assert outstanding(answered, 1001.0, 1003.0, RATE) == 50, "the last second is not written down yet"
    assert outstanding([], 1000.0, 1001.0, RATE), "it has said nothing yet"
