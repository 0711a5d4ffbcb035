"""What ``scale`` sets: it wins over the manifest until it is reset. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lain_shared.model.pod import Desired, Overrides


def with_overrides(desired: Desired, overrides: Mapping[str, int] | None) -> Desired:
    """``desired`` (as the release has it) with what ``scale`` set: {instances, cpu, memory_bytes}."""
    wanted = Overrides(**overrides) if overrides else Overrides()
    template = desired.template
    if wanted.cpu is not None:
        template = replace(template, cpu=wanted.cpu)
    if wanted.memory_bytes is not None:
        request = template.memory_request_bytes
        template = replace(
            template,
            memory_bytes=wanted.memory_bytes,
            memory_request_bytes=None if request is None else min(request, wanted.memory_bytes),
        )
    instances = desired.instances if wanted.instances is None else wanted.instances
    return replace(desired, template=template, instances=instances, overrides=wanted)


def override_values(overrides: Overrides) -> dict[str, int]:
    """Only what is set, as ``App.overrides`` keeps it."""
    values = {"instances": overrides.instances, "cpu": overrides.cpu, "memory_bytes": overrides.memory_bytes}
    return {name: value for name, value in values.items() if value is not None}
