"""No local cluster outlives its certificates: they are looked at again in time, and who reads a new one is restarted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lain_cli.bootstrap import pki
from lain_cli.local.cluster import LOOK_AGAIN_SECONDS, renewed, settlement

PORTS = {"console": 9510}
DAY = 86400.0


def test_the_same_cluster_is_settled_and_another_is_not() -> None:
    settled = settlement("local", "10.77.0.11", PORTS, 0.0)
    assert settled == settlement("local", "10.77.0.11", dict(PORTS), DAY)
    assert settled not in (
        settlement("local", "10.77.1.11", PORTS, 0.0), settlement("local", "10.77.0.11", {"console": 9511}, 0.0)
    )  # fmt: skip


@given(st.floats(0, 4e9), st.floats(0, 1e9))
def test_what_was_settled_long_ago_is_looked_at_again(then: float, later: float) -> None:
    now = then + LOOK_AGAIN_SECONDS + later
    assert settlement("local", "a", PORTS, then) != settlement("local", "a", PORTS, now)


def test_between_two_looks_no_certificate_that_was_good_runs_out() -> None:
    assert LOOK_AGAIN_SECONDS < pki.RENEW_DAYS * DAY / 2
    assert pki.RENEW_DAYS < pki.LEAF_DAYS / 2


def test_the_parts_whose_certificate_was_made_are_restarted() -> None:
    told = (
        "certificate of root: it ends 2026-03-01\ncertificate of agent@n1: it ends 2026-03-01\n"
        "certificate of console: made\nmade the registry's users: push, agent"
    )
    assert renewed(told, ("etcd", "registry", "console", "agent", "nginx")) == ("console", "agent")
    assert renewed("nothing to do", ("etcd", "console")) == ()
