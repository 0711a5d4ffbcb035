"""Scale and stop that take over a running deploy: the release before comes back with the change, and none of its oneshots runs again."""

from __future__ import annotations

import pytest

from lain_console.procs import Procs, Scaling
from lain_shared.model.app import Outcome
from lain_shared.model.pod import ProcType
from lain_shared.testing import MemoryStore
from tests.fixtures.controller import Fate
from tests.unit.console.builders import Bench, proc, release_of, web


@pytest.mark.parametrize("stuck", ["migrate", "web"])
@pytest.mark.parametrize("change", ["scale", "stop"])
async def test_a_takeover_runs_no_old_migration_and_leaves_nothing_of_the_replaced(stuck: str, change: str) -> None:
    bench = Bench(MemoryStore())
    console = await bench.console()
    await bench.register()
    await bench.make_node()
    await console.deploy(release_of(1, proc("migrate", 1, ProcType.ONESHOT), web(1)))
    assert await bench.run(console) is not None
    bench.controller.fates[f"{stuck}@2-abc"] = Fate.STARTING
    await console.deploy(
        release_of(2, proc("migrate", 2, ProcType.ONESHOT), proc("seed", 2, ProcType.ONESHOT), web(2), proc("new", 2))
    )
    assert await bench.run(console, 5) is None
    bench.clock.advance(1)
    procs = Procs(bench.state, console.starter)
    if change == "scale":
        await procs.scale("hello", "web", Scaling(instances=2), "bob", replace_running=True)
    else:
        await procs.stop("hello", "web", None, "bob", replace_running=True)
    wanted = await bench.wanted()
    assert set(wanted) == {"web"} and wanted["web"].release == 1, "of the replaced release nothing is left, at once"
    record = await bench.run(console)
    assert record is not None and record.outcome is Outcome.SUCCEEDED, record
    assert bench.controller.oneshots_run.count(("migrate", 1)) == 1, "the old migration ran again"
    web_now = (await bench.wanted())["web"]
    assert (web_now.instances, web_now.stopped) == ((2, ()) if change == "scale" else (1, (1,)))
