"""The tools of the tests themselves: waiting, clocks, and the plugin that catches leaks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lain_shared.errors import Unavailable
from lain_shared.testing import ManualClock, eventually

ROOT = Path(__file__).parents[3]


async def test_eventually_returns_the_first_true_value() -> None:
    values = iter([0, "", None, "yes"])
    assert await eventually(lambda: next(values)) == "yes"


async def test_eventually_takes_what_is_not_yet_there_for_not_yet() -> None:
    tries = 0

    async def third_time() -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("away")
        assert tries > 2
        return tries

    assert await eventually(third_time) == 3


async def test_eventually_says_what_it_waited_for_and_what_it_saw() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.02 s: the moon; last seen: 0"):
        await eventually(lambda: 0, 0.02, "the moon")


async def test_eventually_lets_other_errors_rise() -> None:
    with pytest.raises(ZeroDivisionError):
        await eventually(lambda: 1 // 0)


def test_a_manual_clock_goes_when_told_and_never_back() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock.advance(2.5), clock()) == (5.0, 7.5, 7.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


LEAKS = """
import asyncio, subprocess
KEPT = []

async def test_task():
    KEPT.append(asyncio.create_task(asyncio.sleep(60)))

def test_process():
    KEPT.append(subprocess.Popen(["sleep", "60"]))

def test_stop():
    KEPT[-1].kill()
    KEPT[-1].wait()

async def test_clean():
    await asyncio.gather(asyncio.create_task(asyncio.sleep(0)))
"""


def test_a_test_that_leaves_something_behind_fails(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.fixtures.leaks"]\n')
    (tmp_path / "test_leaks.py").write_text(LEAKS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    said = {line.partition(" - ")[0] for line in ended.stdout.splitlines()}
    assert "ERROR test_leaks.py::test_task" in said, ended.stdout
    assert "ERROR test_leaks.py::test_process" in said, ended.stdout
    assert "PASSED test_leaks.py::test_clean" in said, ended.stdout
    assert "asyncio tasks left behind" in ended.stdout
    assert "child processes left behind" in ended.stdout


async def test_a_part_that_fails_makes_its_block_fail() -> None:
    from tests.fixtures.parts import running

    class Broken:
        async def run(self) -> None:
            await asyncio.sleep(0)
            raise ValueError("broken")

        def stop(self) -> None: ...

    with pytest.raises(ValueError, match="broken"):
        async with running(Broken()):
            await asyncio.sleep(0.01)
