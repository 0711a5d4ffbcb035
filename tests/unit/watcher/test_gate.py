"""An nginx whose container starts anew waits for the gate and serves nobody: it is opened at once, if there is a table to start from."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from lain_watcher.adapters.folder import Folder
from lain_watcher.loops import Gate
from lain_watcher.metrics import Metrics
from lain_watcher.router import Router


async def test_it_opens_again_and_again_and_is_looked_at_often(tmp_path: Path) -> None:
    router, folder, opened = Router("r1", Metrics(CollectorRegistry())), Folder(tmp_path), []
    gate = Gate(router, folder, on_open=lambda: opened.append(1))
    assert await gate.one_pass() <= 0.1
    assert not folder.gate.exists()
    router.may_listen = True
    assert await gate.one_pass() <= 0.1
    assert folder.gate.exists() and len(opened) == 1
    await gate.one_pass()
    assert len(opened) == 1
    folder.gate.unlink()  # as a supervisor does when its container starts
    await gate.one_pass()
    assert folder.gate.exists() and len(opened) == 2
