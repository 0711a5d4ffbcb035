"""Where an operation's time goes: whatever happens on the way, its steps add up to the time from the request to the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lain_console.operations.budget import after_phase
from lain_shared.model.app import Operation, OperationKind, OperationPhase, Outcome
from lain_shared.model.status import DeployStep, ProcPhase, ProcStatus
from lain_shared.testing import MemoryStore
from tests.fixtures.controller import Fate
from tests.unit.console.builders import Bench, Console, proc, release_of, web


def operation(phase: OperationPhase, spent: Mapping[str, float] | None = None) -> Operation:
    return Operation(
        "1",
        "hello",
        OperationKind.DEPLOY,
        phase,
        "ann",
        100.0,
        phase_at=100.0,
        step_seconds={"plan": 0.5} if spent is None else spent,
    )


def status(name: str, step: DeployStep | None = None, at: float = 0.0, **seconds: float) -> ProcStatus:
    phase = ProcPhase.ROLLING if step is not None else ProcPhase.STABLE
    return ProcStatus("hello", name, 1, 1, phase, 1, 1, 1, 0.0, step=step, step_at=at, step_seconds=seconds)


steps = st.dictionaries(st.sampled_from([step.value for step in DeployStep]), st.floats(0, 400), max_size=8)
told = st.builds(
    lambda step, at, seconds: status("web", step, at, **seconds),
    st.none() | st.sampled_from(list(DeployStep)), st.floats(0, 1e9), steps,
)  # fmt: skip


@given(st.sampled_from(list(OperationPhase)), st.floats(0, 1000), st.lists(told, max_size=4), steps)
def test_no_second_is_lost_and_none_is_counted_twice(
    phase: OperationPhase, elapsed: float, statuses: list[ProcStatus], before: dict[str, float]
) -> None:
    spent = after_phase(operation(phase, before), 100.0 + elapsed, statuses)
    assert sum(spent.values()) == pytest.approx(sum(before.values()) + elapsed, abs=0.01)
    assert all(seconds >= 0 for seconds in spent.values())


def test_the_proc_that_was_last_speaks_for_the_phase() -> None:
    quick, slow = status("web", at=105.0, start=1.0, ready=4.0), status("worker", at=107.0, start=2.0, pull=5.0)
    spent = after_phase(operation(OperationPhase.ROLLOUT), 108.0, [slow, quick])
    assert spent == {"plan": 1.5, "start": 2.0, "pull": 5.0}


def test_what_is_still_waited_for_gets_the_rest() -> None:
    stuck = status("web", DeployStep.READY, 102.0, start=1.0)
    assert after_phase(operation(OperationPhase.ROLLOUT), 400.0, [stuck, status("worker", at=900.0)]) == {
        "plan": 0.5, "start": 1.0, "ready": 299.0,
    }  # fmt: skip


@pytest.mark.parametrize("dies_after", [None, 1, 2, 3])
async def test_an_operation_is_accounted_for_from_the_request_to_its_end(dies_after: int | None) -> None:
    bench = Bench(MemoryStore())
    console = await bench.console()
    await bench.register()
    await run(bench, console, None)
    bench.controller.fates["web@2-abc"] = Fate.STARTING
    await console.deploy(release_of(2, web(2), proc("new", 2)))
    began = bench.clock()
    await run(bench, console, dies_after)
    record = await bench.last()
    assert record.outcome is Outcome.SUCCEEDED
    assert sum(record.step_seconds.values()) == pytest.approx(record.ended_at - began, abs=0.01)
    assert record.ended_at - record.started_at > 5


async def run(bench: Bench, console: Console, dies_after: int | None) -> None:
    """To its end, a second a pass; another console takes over after so many. The first deploy if there was none."""
    if await bench.operation() is None:
        await console.deploy(release_of(1, web(1)))
    for number in range(40):
        if number == 6:
            bench.controller.fates.clear()
        if number == dies_after:
            await bench.store.revoke(console.lease.id)
            console = await bench.console("c2")
        await bench.controller.one_pass()
        await console.driver.one_pass()
        bench.clock.advance(1)
        if await bench.operation() is None:
            return
    raise AssertionError("it never ended")
