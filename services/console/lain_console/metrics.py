"""What the console counts. Labels come from closed sets, zeroed at start."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lain_shared.model.app import OperationKind, Outcome
from lain_shared.model.status import DeployStep


class Metrics:
    """The console's own metrics; loops and HTTP add theirs to the same registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.operations = Gauge("lain_console_operations", "Operations under way in the cluster.", registry=registry)
        self.ended = Counter(
            "lain_console_operations_ended_total",
            "Operations this replica ended.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.seconds = Histogram(
            "lain_console_operation_seconds",
            "How long operations took.",
            ["kind"],
            buckets=(1, 2, 5, 10, 20, 60, 120, 300, 600, 1800),
            registry=registry,
        )
        self.step_seconds = Histogram(
            "lain_deploy_step_seconds",
            "Where the time of a deploy, rollback or change of environment went: one observation of each step for each that ended. "
            "The steps add up to what its user waited.",
            ["step"],
            buckets=(0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.steps = Counter("lain_console_steps_total", "Steps of operations.", ["outcome"], registry=registry)
        self.takeovers = Counter(
            "lain_console_takeovers_total", "Operations taken over from a replica that went away.", registry=registry
        )
        for kind in OperationKind:
            self.seconds.labels(kind.value)
            for outcome in Outcome:
                self.ended.labels(kind.value, outcome.value)
        for step in DeployStep:
            self.step_seconds.labels(step.value)
        for made in ("made", "failed"):
            self.steps.labels(made)
