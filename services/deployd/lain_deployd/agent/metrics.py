"""The agent's metrics, in a registry of the process that made them."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lain_shared.model.pod import Observed, PodState

ACTIONS = ("create", "start", "noteexit", "noteunready", "restart", "update", "stop", "remove", "forget")
STEPS = ("pull", "create", "start", "ready", "stop")


class AgentMetrics:
    """What the agent does and what runs on its node."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry if registry is not None else CollectorRegistry()
        self.actions = Counter("lain_agent_actions_total", "Actions on pods.", ["action", "outcome"], registry=registry)
        self.pods = Gauge("lain_agent_pods", "Pods on this node.", ["state"], registry=registry)
        self.pods_ready = Gauge("lain_agent_pods_ready", "Pods on this node that are ready.", registry=registry)
        self.restarts = Gauge("lain_agent_pod_restarts", "Crashes of the pods on this node.", registry=registry)
        self.step_seconds = Histogram(
            "lain_agent_step_seconds",
            "What this node spends on a pod: on bringing an image, on making, starting and stopping a container, until it is ready.",
            ["step"],
            buckets=(0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=registry,
        )
        self.engine_up = Gauge("lain_agent_engine_up", "1: the Engine answers.", registry=registry)
        self.free_addresses = Gauge("lain_agent_free_addresses", "Addresses ready to be given out.", registry=registry)
        for action in ACTIONS:
            for outcome in ("ok", "failed"):
                self.actions.labels(action, outcome)
        for state in PodState:
            self.pods.labels(state.value)
        for step in STEPS:
            self.step_seconds.labels(step)

    def took(self, step: str, seconds: float) -> None:
        """One of ``STEPS`` of one pod (``pull``: of one image) is over."""
        self.step_seconds.labels(step).observe(max(0.0, seconds))

    def count(self, pods: Iterable[Observed]) -> None:
        """Set the gauges from what is seen now."""
        seen = tuple(pods)
        states = Tally(pod.state for pod in seen)
        for state in PodState:
            self.pods.labels(state.value).set(states[state])
        self.pods_ready.set(sum(pod.ready for pod in seen))
        self.restarts.set(sum(pod.restarts for pod in seen))
