"""CPU levels and memory of a template as the limits of a container on this node."""

from __future__ import annotations

from lain_deployd.agent.engine import Limits
from lain_shared.model.pod import PodTemplate

LEVEL_WEIGHT, NO_LEVEL_WEIGHT = 128, 256
"""CPU weight of one level, and of a pod that asked for none. A daemon has 1024 or more: it needs little, and should not wait for it."""
MIN_MEMORY_BYTES = 6 * 1024 * 1024
"""The Engine accepts no less."""


def limits_of(template: PodTemplate, cpus: int) -> Limits:
    """Level 0: a weight, no quota; level n: n/8 of half the node's cores. The memory request is a soft limit where it differs."""
    request = template.memory_request_bytes
    memory = max(template.memory_bytes, MIN_MEMORY_BYTES)
    return Limits(
        memory_bytes=memory,
        cpu_quota_percent=template.cpu / 8 * cpus / 2 * 100 if template.cpu else None,
        memory_reservation_bytes=request if request is not None and MIN_MEMORY_BYTES <= request < memory else None,
        cpu_weight=LEVEL_WEIGHT * template.cpu or NO_LEVEL_WEIGHT,
    )


def level_of(limits: Limits, cpus: int) -> int:
    """The CPU level that limits stand for; 0: no quota."""
    return 0 if limits.cpu_quota_percent is None else max(1, round(limits.cpu_quota_percent / 100 / (cpus / 2) * 8))


def same(one: Limits, other: Limits) -> bool:
    """Equal as far as the Engine's own rounding (10 µs of a 100 ms period) lets us see."""
    return (
        one.memory_bytes == other.memory_bytes
        and one.memory_reservation_bytes == other.memory_reservation_bytes
        and one.cpu_weight == other.cpu_weight
        and abs((one.cpu_quota_percent or 0.0) - (other.cpu_quota_percent or 0.0)) < 0.02
        and (one.cpu_quota_percent is None) == (other.cpu_quota_percent is None)
    )
