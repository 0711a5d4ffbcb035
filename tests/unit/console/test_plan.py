"""The diff and the verdict: what a plan says, and what it keeps to itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lain_console.operations.candidate import after_release, differs
from lain_console.operations.overrides import override_values, with_overrides
from lain_console.operations.plan import judge_limits, judge_room, make_plan
from lain_console.wording import age_text, size
from lain_sdk.api_types import ChangeAction, Verdict
from lain_shared.model.app import App, OperationKind
from lain_shared.model.node import NodeState
from lain_shared.model.pod import Desired, Overrides, ProcType, Strategy
from lain_shared.placement import Room
from tests.unit.console.builders import MIB, proc, release_of, web


def plan_of(
    before: list[Desired], after: list[Desired]
) -> dict[str, tuple[ChangeAction, dict[str, tuple[str, str]], bool]]:
    made = make_plan(
        "hello",
        OperationKind.DEPLOY,
        before={each.proc: each for each in before},
        after={each.proc: each for each in after},
    )
    return {
        change.proc: (change.action, {each.field: (each.old, each.new) for each in change.changes}, change.in_place)
        for change in made.changes
    }


def with_template(desired: Desired, **more: object) -> Desired:
    return replace(desired, template=replace(desired.template, **more))  # type: ignore[arg-type]


def test_nothing_changes_when_nothing_but_the_number_does() -> None:
    one = web(1)
    made = make_plan("hello", OperationKind.DEPLOY, before={"web": one}, after={"web": replace(one, release=2)})
    assert made.verdict is Verdict.NOTHING
    assert not differs({"web": one}, {"web": replace(one, release=2)})


def test_values_of_the_environment_are_never_shown() -> None:
    old = with_template(web(1), env={"KEY": "geheim-1", "GONE": "geheim-2"})
    new = with_template(web(1), env={"KEY": "geheim-3", "NEW": "geheim-4"})
    _, changes, _ = plan_of([old], [new])["web"]
    assert changes == {
        "env KEY": ("set", "set to another value"),
        "env GONE": ("set", ""),
        "env NEW": ("", "set"),
    }


def test_limits_change_in_place_and_everything_else_does_not() -> None:
    old = web(1)
    _, changes, in_place = plan_of([old], [with_template(old, memory_bytes=64 * MIB, cpu=2)])["web"]
    assert in_place and changes == {"memory": ("32 MiB", "64 MiB"), "cpu": ("a share", "2")}
    assert not plan_of([old], [with_template(old, memory_bytes=64 * MIB, user="app")])["web"][2]
    assert not plan_of([old], [replace(old, restarts={1: 1})])["web"][2]


def test_what_goes_and_what_comes() -> None:
    changes = plan_of([web(1), proc("old", 1)], [web(1), proc("new", 1)])
    assert {name: action for name, (action, _, _) in changes.items()} == {
        "web": ChangeAction.KEEP, "old": ChangeAction.REMOVE, "new": ChangeAction.ADD,
    }  # fmt: skip


def test_overrides_win_until_they_are_gone() -> None:
    base = with_template(web(1), memory_request_bytes=32 * MIB)
    scaled = with_overrides(base, {"instances": 3, "memory_bytes": 16 * MIB})
    assert (scaled.instances, scaled.template.memory_bytes, scaled.template.memory_request_bytes) == (
        3,
        16 * MIB,
        16 * MIB,
    )
    assert scaled.overrides == Overrides(3, None, 16 * MIB)
    assert override_values(scaled.overrides) == {"instances": 3, "memory_bytes": 16 * MIB}
    assert with_overrides(base, None) == base


def test_a_release_keeps_what_operators_stopped_and_how_often_they_restarted() -> None:
    before = {"web": replace(web(1), instances=3, stopped=(1, 3), restarts={2: 4})}
    app = App("hello", "ann", 0.0, overrides={"web": {"instances": 2}})
    after = after_release(release_of(2, web(2)), app, before)["web"]
    assert (after.instances, after.stopped, dict(after.restarts)) == (2, (1,), {2: 4})


def test_a_proc_that_is_not_of_the_release_stays_as_it_is() -> None:
    before = {"web": web(1), "mail": proc("mail", 1)}
    release = release_of(2, web(1), proc("mail", 2))
    after = after_release(release, App("hello", "ann", 0.0), before)
    assert after == {"web": web(1), "mail": proc("mail", 2)}


@pytest.mark.parametrize(
    ("desired", "code"),
    [
        (replace(web(1), singleton=True, instances=2), "singleton"),
        (replace(web(1), instances=1001), "instances"),
        (with_template(web(1), cpu=9), "cpu"),
        (with_template(web(1), memory_bytes=5 * MIB), "memory"),
    ],
)
def test_limits_nobody_could_run(desired: Desired, code: str) -> None:
    assert [problem.code for problem in judge_limits(desired)] == [code]


# --- room -------------------------------------------------------------------------------------------------------------


def node(name: str = "n1", memory: int = 128, running: tuple[Desired, ...] = (), **more: object) -> Room:
    room = Room(name, state=NodeState(name, 4, memory * MIB, 0, 1, 1, "20.10"), **more)  # type: ignore[arg-type]
    for desired in running:
        for _ in range(desired.instances):
            room.take(desired.app, desired.proc, desired.template, new=False)
    return room


def room_for(old: Desired | None, new: Desired, *rooms: Room) -> tuple[list[str], list[str]]:
    before = {old.proc: old} if old is not None else {}
    refused, warned = judge_room(before, {new.proc: new}, {room.name: room for room in rooms})
    return [each.code for each in refused], [each.code for each in warned]


def test_a_first_deploy_must_fit() -> None:
    assert room_for(None, replace(web(1), instances=4), node()) == ([], [])
    assert room_for(None, replace(web(1), instances=5), node()) == (["no_node"], [])
    assert room_for(None, web(1)) == (["no_node"], [])
    assert room_for(None, replace(web(1), filters=("constraint:disk==ssd",)), node()) == (["no_node"], [])


def test_a_first_deploy_that_does_not_fit_for_what_scale_set_says_so() -> None:
    scaled = replace(web(1), instances=5, overrides=Overrides(instances=5))
    (refused,), _ = judge_room({}, {"web": scaled}, {"n1": node()})
    assert (refused.why, refused.next) == ("lain scale set instances 5", "lain scale hello web --reset")


def test_an_upgrade_without_room_for_its_surge_is_warned_of() -> None:
    old = replace(web(1), instances=4)
    new = replace(web(2), instances=4)
    assert room_for(old, new, node(running=(old,))) == ([], ["no_node"])
    assert room_for(old, new, node(memory=160, running=(old,))) == ([], [])
    recreated = replace(new, strategy=Strategy.RECREATE)
    assert room_for(old, recreated, node(running=(old,))) == ([], [])


def test_a_scale_counts_what_runs_already() -> None:
    old = replace(web(1), instances=3)
    assert room_for(old, replace(old, instances=4), node(running=(old,))) == ([], [])
    assert room_for(old, replace(old, instances=5), node(running=(old,))) == (["no_node"], [])
    assert room_for(old, with_template(old, memory_bytes=40 * MIB), node(running=(old,))) == ([], [])
    assert room_for(old, with_template(old, memory_bytes=50 * MIB), node(running=(old,))) == (["no_node"], [])
    assert room_for(old, replace(old, stopped=(1,)), node(memory=1, running=())) == ([], []), "less needs no room"


def test_a_bad_filter_is_told_as_such() -> None:
    assert room_for(None, replace(web(1), filters=("nonsense",)), node()) == (["bad_filter"], [])


def test_the_rooms_handed_in_are_not_changed() -> None:
    old = web(1)
    room = node(running=(old,))
    used = room.used_memory_bytes
    room_for(old, web(2), room)
    assert room.used_memory_bytes == used and room.procs["hello", "web"] == 1


def test_a_oneshot_needs_a_node_too() -> None:
    migrate = with_template(proc("migrate", 1, ProcType.ONESHOT), memory_bytes=512 * MIB)
    assert room_for(None, migrate, node()) == (["no_node"], [])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min"), (75, "1 min 15 s"), (3600, "1 h"), (3725, "1 h 2 min"), (90000, "25 h")],
)
def test_ages_as_people_say_them(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (32 * MIB, "32 MiB"), (1536 * MIB, "1.5 GiB")]
)
def test_sizes_as_people_say_them(number: int, text: str) -> None:
    assert size(number) == text
