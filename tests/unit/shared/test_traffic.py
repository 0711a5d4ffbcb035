"""Latency buckets and counts: what routers tell can be added up without a guess."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lain_shared.model.traffic import MAX_MS, Counts, bucket_of, middle_ms, quantile_ms

BUCKETS = 144
"""As ``deploy/nginx/lua/lain/traffic.lua`` has room for."""

latencies = st.integers(0, 2 * MAX_MS)


def of(samples: list[int]) -> Counts:
    return Counts(len(samples), latency=Counter(map(bucket_of, samples)))


@given(latencies)
def test_a_bucket_is_within_a_sixteenth_of_what_is_in_it(ms: int) -> None:
    held = min(ms, MAX_MS)
    assert abs(middle_ms(bucket_of(ms)) - held) <= 0.0625 * held
    assert 0 <= bucket_of(ms) < BUCKETS


@given(latencies, latencies)
def test_buckets_are_in_the_order_of_latencies(one: int, other: int) -> None:
    assert (one <= other) <= (bucket_of(one) <= bucket_of(other))


@given(st.lists(latencies), st.lists(latencies))
def test_routers_together_are_as_one_that_saw_it_all(here: list[int], there: list[int]) -> None:
    assert of(here) + of(there) == of(here + there)
    assert of(here + there) - of(here) == of(there)


@given(st.lists(st.integers(0, MAX_MS), min_size=1), st.sampled_from((0.5, 0.9, 0.99, 1.0)))
def test_a_quantile_is_within_a_sixteenth_of_the_true_one(samples: list[int], share: float) -> None:
    true = sorted(samples)[max(math.ceil(share * len(samples)), 1) - 1]
    found = quantile_ms(of(samples).latency, share)
    assert found is not None
    assert abs(found - true) <= 0.0625 * true


def test_without_requests_there_is_no_latency() -> None:
    assert quantile_ms({}, 0.99) is None
