"""Every operation there is, made on three apps of ours: the apps, asking until it is under way, and how it ended.

A person whose request broke asks again, as the command line would.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bench.report import Proof
from bench.stage.cluster import Stage
from bench.stage.node import Node
from bench.stage.order import MIB, Look, in_order
from bench.stage.truth import Truth
from lain_sdk.client import Console
from lain_shared import keys
from lain_shared.errors import LainError
from lain_shared.model.app import HistoryRecord
from tests.fixtures.cluster import App

GIVE_UP_SECONDS = 120.0
STABLE, MOVING, FRESH = "stable", "moving", "fresh"
OPERATIONS = (
    "deploy", "rollback", "scale-up", "scale-down", "restart", "cpu", "memory", "env", "stop", "start", "undeploy", "first-deploy",
)  # fmt: skip
LAST = {"scale-down": "scale-up", "start": "stop", "first-deploy": "undeploy"}
"""Operations that undo another, and are drawn together with it."""


@dataclass(slots=True)
class Ground:
    """What operations are made on. ``turn``: how often each operation was made; ``asked_again``: why a request had to be repeated."""

    proof: Proof
    truth: Truth
    node: Node
    apps: dict[str, App]
    images: dict[str, str]
    """Version → its image on the node."""
    turn: Counter[str] = field(default_factory=Counter)
    asked_again: Counter[str] = field(default_factory=Counter)
    other_version: str = ""
    other_cpu: int = 0
    other_memory: str = ""
    """What the next operation changes to."""
    began: float = field(default_factory=time.time)


def prepared(proof: Proof, there: Stage, truth: Truth, node: Node) -> Ground:
    """Three apps: one that nobody touches, one with two versions that changes, one that comes and goes."""
    apps = {name: there.app("slow", name) for name in (STABLE, MOVING, FRESH)}
    for name, app in apps.items():
        proof.say(f"shipping {name}")
        app.ship()
    moving, found = apps[MOVING], {}
    first = str(moving.state()["meta_version"])
    second = moving.commit("second")
    for version in (first, second):
        if version == second:
            moving.ship()
        template = truth.picture().all(keys.DESIRED)[f"{MOVING}/web"][0].template
        found[version] = template.image
    return Ground(proof, truth, node, apps, found)


async def ask(ground: Ground, console: Console, operation: str) -> Any:
    """Make the operation; each time it is another change, whatever came of the one before."""
    number = ground.turn[operation]
    match operation:
        case "deploy":
            return await console.deploy(MOVING, ground.other_version)
        case "rollback":
            return await console.rollback(MOVING)
        case "scale-up":
            return await console.scale(MOVING, "web", 3 + number % 2)
        case "scale-down":
            return await console.scale(MOVING, "web", 2 - number % 2)
        case "restart":
            return await console.restart(MOVING)
        case "cpu":
            return await console.scale(MOVING, "web", cpu=ground.other_cpu)
        case "memory":
            return await console.scale(MOVING, "web", memory=ground.other_memory)
        case "env":
            return await console.set_env(MOVING, {"TURN": f"{ground.began:.0f} {number}"})
        case "stop":
            return await console.stop(MOVING, "web", 1)
        case "start":
            return await console.start(MOVING, "web")
        case "undeploy":
            return await console.undeploy(FRESH)
        case "first-deploy":
            return await console.deploy(FRESH)
    raise ValueError(operation)


def app_of(operation: str) -> str:
    return FRESH if operation in ("undeploy", "first-deploy") else MOVING


def ended(ground: Ground, app: str) -> dict[str, HistoryRecord]:
    """The app's operations that have ended."""
    return {key: record for key, (record, _) in ground.truth.picture().all(keys.HISTORY).items() if record.app == app}


async def asked(ground: Ground, operation: str, past: frozenset[str]) -> None:
    """Ask until it is under way or over: a request whose answer was lost may have been heard."""
    app, deadline = app_of(operation), time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            await ground.truth.asking(lambda console: ask(ground, console, operation))
            return
        except (LainError, OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            code = getattr(error, "error_code", type(error).__name__)
            ground.asked_again[f"{operation}: {code}: {str(error)[:100]}"] += 1
            if time.monotonic() > deadline:
                raise
        with_patience = time.monotonic() + 10
        while time.monotonic() < with_patience:
            await asyncio.sleep(0.2)
            try:
                running = await ground.truth.store.get(keys.OPERATIONS.key(app))
                history = await ground.truth.store.list(keys.HISTORY.under(app))
            except LainError:
                continue
            if running is not None or {e.key.removeprefix(keys.HISTORY.prefix) for e in history.entries} - past:
                return
            break


def ready_for(ground: Ground, operation: str, now: Look) -> None:
    """What the operation changes to: another value than there is. Every other version that a deploy brings is not on the node."""
    stands = now.picture.all(keys.DESIRED)[f"{MOVING}/web"][0]
    ground.other_cpu = 2 if stands.template.cpu == 1 else 1
    ground.other_memory = "96m" if stands.template.memory_bytes < 90 * MIB else "72m"
    version, image = next(one for one in ground.images.items() if one[1] != stands.template.image)
    ground.other_version = version
    if operation == "deploy" and ground.turn[operation] % 2:
        ground.node.sh(f"docker image rm {ground.truth.address}:5000/{image} || true")


def outcomes(after: Look, operation: str, past: frozenset[str]) -> tuple[str, ...]:
    """How the operations since then ended."""
    new = [
        record
        for key, (record, _) in after.picture.all(keys.HISTORY).items()
        if record.app == app_of(operation) and key not in past
    ]
    return tuple(
        record.outcome.value if record.failure is None else f"{record.outcome.value}: {record.failure.message}"
        for record in new
    )


def settled(ground: Ground) -> Look:
    """Once all is in order though nobody was killed."""
    return in_order(ground.truth, ground.node, GIVE_UP_SECONDS, every_seconds=0.1)
