"""API objects against their golden documents: a client of today reads what a server of before answered, and the other way round.

Write what is missing, and complete what was added, with ``python -m tests.contract.test_golden_api``. Values that stand are never changed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lain_sdk import api_types
from lain_shared import agent_views, deployd_views, platform_view
from lain_shared.model.app import HistoryRecord
from lain_shared.model.node import Drain, Node, Switch
from lain_shared.model.status import ProcStatus
from tests.contract.golden.write import completed, example

GOLDEN = Path(__file__).parent / "golden" / "api" / "1"
ANSWERS: tuple[type[Any], ...] = (
    api_types.WhoamiView, api_types.ClusterView, api_types.RepoView, api_types.HostView, api_types.VersionsView,
    api_types.AppView, api_types.ProcView, api_types.PlanView, api_types.Accepted, api_types.OperationView,
    api_types.ReleaseView, api_types.EnvView, api_types.ExplainView, api_types.IssuedToken, api_types.TokenView,
    deployd_views.NodeView, deployd_views.PodView, deployd_views.AssignmentView, deployd_views.WhyView,
    deployd_views.RouterView, platform_view.PlatformView, agent_views.NodeVolume, agent_views.LossView,
    HistoryRecord, ProcStatus, Node, Drain, Switch,
)  # fmt: skip
HAND_MADE: Mapping[type[Any], Any] = {
    api_types.ConfigView: {"name": "cluster", "value": {"domain": "lain.localhost", "n": 7}, "revision": 7}
}
"""Answers that hold anything at all."""
EVERY = [*ANSWERS, *HAND_MADE]
by_answer = pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)


def path_of(kind: type[Any]) -> Path:
    return GOLDEN / f"{kind.__name__}.json"


def read(kind: type[Any]) -> Any:
    return json.loads(path_of(kind).read_text())


def write() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for kind in EVERY:
        full = HAND_MADE.get(kind) or example(kind, kind.__name__)
        document = completed(read(kind), full, kind, kind.__name__) if path_of(kind).exists() else full
        path_of(kind).write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


@by_answer
def test_an_answer_is_read_with_nothing_lost(kind: type[Any]) -> None:
    document = read(kind)
    value = msgspec.json.decode(msgspec.json.encode(document), type=kind)
    assert json.loads(msgspec.json.encode(value)) == document


@by_answer
def test_the_golden_answer_has_every_field(kind: type[Any]) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    assert names == set(read(kind)), "run: python -m tests.contract.test_golden_api"


@by_answer
def test_an_older_servers_answer_is_read(kind: type[Any]) -> None:
    optional = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    early = {name: value for name, value in read(kind).items() if name not in optional}
    msgspec.json.decode(msgspec.json.encode(early), type=kind)


@by_answer
def test_a_newer_servers_answer_is_read(kind: type[Any]) -> None:
    newer = {**read(kind), "invented_later": {"x": 1}}
    value = msgspec.json.decode(msgspec.json.encode(newer), type=kind)
    assert json.loads(msgspec.json.encode(value)) == read(kind)


if __name__ == "__main__":
    write()
