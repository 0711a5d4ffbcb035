"""deployd controller's metrics, in a registry of the process that made them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lain_shared.model.status import ProcPhase

ACTIONS = ("assign", "stop", "forget", "drain", "change", "endpoints", "status")
OUTCOMES = ("ok", "conflict", "uncertain", "failed")


class ControllerMetrics:
    """What the leader does. Everything is zero on a replica that does not lead."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self.actions = Counter(
            "lain_deployd_actions_total", "Writes made, by what they do.", ["action"], registry=registry
        )
        self.transactions = Counter(
            "lain_deployd_transactions_total", "Transactions sent, by outcome.", ["outcome"], registry=registry
        )
        self.decide_seconds = Histogram(
            "lain_deployd_decide_seconds", "Time to decide what to write, without writing it.", registry=registry,
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
        )  # fmt: skip
        self.procs = Gauge("lain_deployd_procs", "Procs, by phase of their status.", ["phase"], registry=registry)
        self.nodes_lost = Gauge("lain_deployd_nodes_lost", "Nodes that count as lost.", registry=registry)
        self.breaker = Gauge("lain_deployd_breaker", "1 while nothing is moved.", registry=registry)
        self.frozen = Gauge(
            "lain_deployd_frozen_apps", "Apps with a record that cannot be read: nothing is decided.", registry=registry
        )
        self.leads = Gauge("lain_deployd_leads", "1 on the replica that leads.", registry=registry)
        for action in ACTIONS:
            self.actions.labels(action)
        for outcome in OUTCOMES:
            self.transactions.labels(outcome)
        for phase in ProcPhase:
            self.procs.labels(phase.value)
