"""The doctor at a cluster's bed: faults that show at once, each named for what it is and nothing else, and gone by its own advice.

All of them, those too that a node tells of itself half a minute later: ``make proof-doctor``.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.fixtures.cluster import LAINCTL, LocalCluster, wait_until
from tests.fixtures.faults import FAULTS, Diagnosis, ask_doctor, take_doctors_advice

CHOSEN = (
    "Engine stopped", "registry stopped", "agent stopped", "nginx hangs", "console stopped", "controller stopped", "etcd stopped",
    "a leader that is none", "an unreadable record", "a switch left on", "an expired token",
)  # fmt: skip
NAMED_SECONDS = 90.0


def platform_faults(told: Diagnosis) -> set[str]:
    """What other tests' apps are in for is not asked here."""
    return {code for code in told.found if not code.startswith(("app_", "pod_"))}


@pytest.fixture(autouse=True)
def well(cluster: LocalCluster) -> None:
    """Whatever a test before left is over."""
    wait_until(lambda: not platform_faults(ask_doctor(cluster)), "the doctor finds nothing", NAMED_SECONDS)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_fault_is_named_and_healed(cluster: LocalCluster, name: str) -> None:
    fault = next(one for one in FAULTS if one.name == name)
    with fault.made(cluster) as given:
        environ = dict(given) if isinstance(given, Mapping) else None
        told: list[Diagnosis] = []

        def named() -> bool:
            """By its name, and nothing else: what making it disturbed for a moment is over."""
            told[:] = [ask_doctor(cluster, environ)]
            found = told[0].found
            shown = fault.code in found and all(word in told[0].text(fault.code) for word in fault.shows)
            return shown and not platform_faults(told[0]) - {fault.code, *fault.also}

        wait_until(named, f"{fault.code} is named, and nothing else", NAMED_SECONDS)
        assert not told[0].incomplete, told[0].found
        if fault.healed_by_doctor:
            take_doctors_advice(cluster, told[0].found[fault.code])
    wait_until(lambda: not platform_faults(ask_doctor(cluster)), "the doctor finds nothing any more", NAMED_SECONDS)


def test_it_reads_as_somebody_at_three_in_the_morning_would(cluster: LocalCluster) -> None:
    """The problem first, and under it why, what shows it, and a line that can be copied into this very shell."""
    cluster.on_node("docker", "stop", "lain-watcher")
    try:
        wait_until(lambda: "watcher_down" in ask_doctor(cluster).found, "the watcher is missed", NAMED_SECONDS)
        told = cluster.run(LAINCTL, "doctor", code=1).out.splitlines()
        assert "problem" in told[0]
        line = next(line for line in told if line.startswith("  next: ") and "watcher" in line)
        command = line.removeprefix("  next: ").partition("; then ")[0]
        assert command == f"lain local exec --name {cluster.name} -- docker start lain-watcher"
    finally:
        cluster.on_node("docker", "start", "lain-watcher")
