"""``docs/failure-model.md`` against the code: every fault the doctor can name of a node is in it, and its numbers are the defaults."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from lain_cli.doctor.report import code_of
from lain_deployd import settings as controller
from lain_deployd.agent import conditions, plan
from lain_deployd.agent import settings as agent
from lain_deployd.controller.view import Limits
from lain_shared import conditions as words
from lain_shared import contact, etcd_channel
from lain_watcher import settings as watcher
from tests.fixtures.faults import FAULTS

PAGE = (Path(__file__).parents[3] / "docs" / "failure-model.md").read_text()
TYPES = [type for type in words.ADVICE if "/" not in type and type != words.PART_DOWN]


@pytest.mark.parametrize(
    "code", sorted({*(code_of(type) for type in TYPES), *(fault.code for fault in FAULTS)} - {"node_stopped"})
)
def test_every_fault_has_its_line(code: str) -> None:
    assert f"`{code}`" in PAGE


def default(of: type, name: str) -> float:
    return float(next(one.default for one in fields(of) if one.name == name))


def test_the_numbers_are_the_defaults() -> None:
    told = {
        "LAIN_AGENT_LEASE_SECONDS": (5, default(agent.Settings, "lease_seconds")),
        "LAIN_AGENT_CONDITIONS_SECONDS": (30, default(agent.Settings, "conditions_seconds")),
        "LAIN_AGENT_DISK_HIGH_PERCENT": (85, default(agent.Settings, "disk_high_percent")),
        "LAIN_AGENT_POD_DISK_PERCENT": (10, default(agent.Settings, "pod_disk_percent")),
        "LAIN_DEPLOYD_LEADER_LEASE_SECONDS": (2, default(controller.Settings, "leader_lease_seconds")),
        "LAIN_DEPLOYD_NODE_LEASE_SECONDS": (5, default(controller.Settings, "node_lease_seconds")),
        "LAIN_DEPLOYD_DRAIN_ACK_SECONDS": (10, default(controller.Settings, "drain_ack_seconds")),
        "LAIN_DEPLOYD_ROUTER_FORGET_SECONDS": (30, default(controller.Settings, "router_forget_seconds")),
        "LAIN_WATCHER_LEASE_SECONDS": (10, default(watcher.Settings, "lease_seconds")),
        "LAIN_WATCHER_SYNC_WAIT_SECONDS": (10, default(watcher.Settings, "sync_wait_seconds")),
        "breaker_window_seconds": (60, default(Limits, "breaker_window_seconds")),
        "heal_settle_seconds": (2, default(Limits, "heal_settle_seconds")),
        "SILENCE_SECONDS": (6, etcd_channel.SILENCE_SECONDS),
        "CONNECT_SECONDS": (2, contact.CONNECT_SECONDS),
        "ANSWER_SECONDS": (4, contact.ANSWER_SECONDS),
        "GOOD_RUN_SECONDS": (600, plan.GOOD_RUN_SECONDS),
    }
    assert {name for name, (said, is_) in told.items() if said != is_} == set()
    assert [name for name in told if name not in PAGE] == []
    assert (conditions.FULL_PERCENT, conditions.MOST_SKEW_SECONDS, conditions.SOON_DAYS) == (95, 2.0, 30)


def test_its_links_lead_somewhere() -> None:
    heads = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", PAGE) if link not in heads] == []
