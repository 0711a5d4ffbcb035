"""What the daemons tell Prometheus: clean for promtool, and a budget of each deploy whose steps add up to what its user waited.

The wait is taken by a client of ours: from the moment it asks the console to deploy to the moment it is told the end. What the console's
``lain_deploy_step_seconds`` grew by meanwhile is held against it. That a step means what it says is shown by deploys of which one step is
made to last: an app that is slow to listen, a oneshot, a request that does not end, a process that is slow to.
"""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.report import Proof
from bench.stage.cluster import Stage, stage
from bench.stage.daemons import PORTS, Daemons
from lain_shared.model.status import DeployStep
from tests.fixtures.cluster import App

if TYPE_CHECKING:
    from bench.__main__ import Options

DEPLOYS = 30
QUICK_DEPLOYS = 4
SHARE = 0.05
TELLS_WITHIN_SECONDS = 0.5
START_SECONDS, ONESHOT_SECONDS, DRAIN_SECONDS, STOP_SECONDS = 3.0, 2.0, 3.0, 3.0
WAIT_SECONDS = 300.0


def run(proof: Proof, options: Options) -> None:
    deploys = options.rounds or (QUICK_DEPLOYS if options.quick else DEPLOYS)
    proof.facts["deploys"] = deploys
    with stage(proof) as on:
        daemons = Daemons(on)
        _check(proof, daemons, "before anything runs")
        _budget(proof, on, daemons, deploys)
        _meanings(proof, on, daemons)
        _check(proof, daemons, "after all that")


def _check(proof: Proof, daemons: Daemons, when: str) -> None:
    """``promtool check metrics`` on each daemon."""
    case = proof.case(f"promtool check metrics, {when}", "complaints")
    for name in PORTS:
        text = daemons.fetch(name, "/metrics")
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode().splitlines()
        case.add(name, float(len(said)))
        case.target(f"{name}: complaints", max(len(said), done.returncode), at_most=0)
        for line in said:
            case.note(f"{name}: {line}")


def _budget(proof: Proof, on: Stage, daemons: Daemons, deploys: int) -> None:
    """Deploys of two versions in turn: one instance, then three of which each waits for the one before."""
    for instances in (1, 3):
        app = on.app("steps", f"steps-{instances}")
        versions = shipped(
            app,
            [f"num_instances: {instances}"],
            [f"num_instances: {instances}"],
        )
        case = proof.case(f"deploy of {instances} instance{'s' if instances > 1 else ''}", "s")
        for number in range(deploys):
            waited, told = deploy(daemons, app.name, versions[(number + 1) % 2])
            proof.say(f"{case.name}: waited {waited:.3f} s, told {sum(told.values()):.3f} s")
            case.add("waited", waited)
            case.add("told", sum(told.values()))
            for step in DeployStep:
                case.add(step.value, told[step.value])
        app.undeploy()
        pairs = list(zip(case.samples["told"], case.samples["waited"], strict=True))
        total = sum(case.samples["told"]) / sum(case.samples["waited"])
        case.target(
            "sum of the steps by what was waited, over all deploys", total, at_least=1 - SHARE, at_most=1 + SHARE
        )
        ratios = sorted(abs(1 - ours / theirs) for ours, theirs in pairs)
        case.target("the same for the median deploy: how far from 1", ratios[len(ratios) // 2], at_most=SHARE)


def _meanings(proof: Proof, on: Stage, daemons: Daemons) -> None:
    """Deploys with one step that is made to last: the budget names it, and only it."""
    app = on.app("steps", "steps-told")
    plain, slow, once, quick, stop, stopped, drain, drained = shipped(
        app,
        [],
        [f"env: [START_SECONDS={START_SECONDS:g}]"],
        [],
        ["strategy: recreate"],
        [f"env: [STOP_SECONDS={STOP_SECONDS:g}]", "strategy: recreate"],
        [f"env: [STOP_SECONDS={STOP_SECONDS:g}]", "strategy: recreate"],
        [f"drain_seconds: {DRAIN_SECONDS:g}", "num_instances: 2"],
        [f"drain_seconds: {DRAIN_SECONDS:g}", "num_instances: 2"],
        more={2: f"\noneshot.migrate:\n  cmd: python3 serve.py once {ONESHOT_SECONDS:g}\n"},
    )
    _, told_slow = deploy(daemons, app.name, slow)
    _, usual = deploy(daemons, app.name, plain)
    _, told_once = deploy(daemons, app.name, once)
    deploy(daemons, app.name, quick)
    usual |= {"stop": deploy(daemons, app.name, stop)[1]["stop"]}
    _, told_stop = deploy(daemons, app.name, stopped)
    deploy(daemons, app.name, drain)
    with busy(on, app.host):
        _, told_drain = deploy(daemons, app.name, drained)
    for step, seconds, told in (
        ("ready", START_SECONDS, told_slow),
        ("oneshot", ONESHOT_SECONDS, told_once),
        ("stop", STOP_SECONDS, told_stop),
        ("drain", DRAIN_SECONDS, told_drain),
    ):
        case = proof.case(f"a deploy whose {step} takes {seconds:g} s longer", "s")
        for name, value in told.items():
            case.add(name, value)
        error = abs(told[step] - usual[step] - seconds)
        case.target(f"{step}: how far from it", error, at_most=TELLS_WITHIN_SECONDS)
    case = proof.case("a deploy whose image is not there", "s")
    for image in on.docker("image", "ls", "--quiet", "--filter", f"reference=*/{app.name}").split():
        on.cluster.on_node("docker", "rmi", "--force", image, code=None)  # the one that runs stays
    _, told = deploy(daemons, app.name, plain)
    for name, value in told.items():
        case.add(name, value)
    case.target("pull: told", told["pull"], at_least=0.01)
    app.undeploy()


# --- deploying --------------------------------------------------------------------------------------------------------


def shipped(app: App, *lines: list[str], more: Mapping[int, str] | None = None) -> list[str]:
    """A version for each list of lines for its proc, in the registry; the first one runs. ``more``: what else one has at the end."""
    manifest = (app.folder / "lain.yaml").read_text()
    made: list[str] = []
    for number, added in enumerate(lines):
        text = manifest + "".join(f"  {line}\n" for line in added) + (more or {}).get(number, "") + f"# {number}\n"
        (app.folder / "lain.yaml").write_text(text)
        made.append(app.commit(f"version {number}"))
        if number:
            app.lain("build")
            app.lain("push")
        else:
            app.ship()
    return made


def deploy(daemons: Daemons, app: str, version: str) -> tuple[float, dict[str, float]]:
    """Seconds its user waited for the deploy, and step → seconds by which the console's budget grew meanwhile."""
    return asyncio.run(_deploy(daemons, app, version))


async def _deploy(daemons: Daemons, app: str, version: str) -> tuple[float, dict[str, float]]:
    before = _told(daemons)
    async with daemons.console() as console, asyncio.timeout(WAIT_SECONDS):
        await console.whoami()  # the connection stands
        began = time.monotonic()
        accepted = await console.deploy(app, version)
        assert accepted.operation is not None, f"{version} runs already"
        ended = await console.wait(app, accepted.operation.id)
        waited = time.monotonic() - began
    if str(ended.outcome) != "succeeded":
        raise RuntimeError(f"the deploy of {version} ended {ended.outcome}: {ended.failure}")
    after = _told(daemons)
    return waited, {step: after[step] - before[step] for step in after}


def _told(daemons: Daemons) -> dict[str, float]:
    samples = daemons.metrics("console")
    return {
        step.value: samples["lain_deploy_step_seconds_sum", frozenset({("step", step.value)})] for step in DeployStep
    }


@contextmanager
def busy(on: Stage, host: str) -> Iterator[None]:
    """Every instance has a request in flight that will not end by itself."""

    def ask() -> None:
        connection = http.client.HTTPConnection(on.address, on.port, timeout=60)
        try:
            connection.request("GET", "/wait/60", headers={"Host": host})
            connection.getresponse().read()
        except OSError:
            pass  # its instance was ended: that is what it is here for
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    yield
    for thread in threads:
        thread.join(70)
