"""An assignment on this node as a container: names, labels, environment, mounts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

from lain_deployd.agent.engine import ContainerSpec, Mount
from lain_deployd.agent.limits import limits_of
from lain_deployd.agent.pods import (
    LABEL_APP,
    LABEL_GENERATION,
    LABEL_INSTANCE,
    LABEL_KILL_TIMEOUT,
    LABEL_NODE,
    LABEL_POD,
    LABEL_PROC,
    LABEL_RELEASE,
    LABEL_TYPE,
)
from lain_shared.errors import Invalid
from lain_shared.model.pod import Assignment

NETWORK = "lain"
BRIDGE = "lain0"
LOGS = "/lain/logs"
"""Every pod has this directory, one an instance, whether declared or not."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod is put: what of its container is this node's business."""

    node: str
    registry: str
    volumes_root: PurePosixPath
    cpus: int
    processes: int = 2048
    open_files: int = 16_384


def reference_of(image: str, registry: str) -> str:
    """A template's image (``repository@sha256:…``) as this node's Engine names it."""
    return f"{registry}/{image}" if registry else image


def instance_directory(assignment: Assignment, root: PurePosixPath) -> PurePosixPath:
    """Where everything an instance keeps is, whichever generation it is."""
    return root / assignment.app / assignment.proc / str(assignment.instance)


def directory_name(path: str) -> str:
    """The one directory that holds the volume at ``path``: ``/var/data`` → ``var%2Fdata``.

    One level, never two: what an app wrote into one volume must not be a step on the way to another (a link there could lead anywhere).
    """
    return quote(path.strip("/"), safe="")


def mounts_of(assignment: Assignment, root: PurePosixPath) -> tuple[Mount, ...]:
    """Declared volumes and ``/lain/logs``, outermost first. ``Invalid`` for a path that is not one inside a container."""
    here = instance_directory(assignment, root)
    paths = {str(PurePosixPath(volume.path)) for volume in assignment.template.volumes} | {LOGS}
    for path in paths:
        if not path.strip("/") or path[0] != "/" or ".." in path.split("/") or ":" in path:
            raise Invalid(f"{path!r} cannot be a volume", why="it is not an absolute path without '..' and ':'")
    return tuple(Mount(str(here / directory_name(path)), path) for path in sorted(paths))


def container_of(assignment: Assignment, address: str, place: Place) -> ContainerSpec:
    """The container that stands for this pod."""
    template = assignment.template
    return ContainerSpec(
        name=str(assignment.pod),
        image=reference_of(template.image, place.registry),
        labels={
            **template.labels,
            LABEL_POD: str(assignment.pod),
            LABEL_NODE: place.node,
            LABEL_APP: assignment.app,
            LABEL_PROC: assignment.proc,
            LABEL_TYPE: assignment.type.value,
            LABEL_INSTANCE: str(assignment.instance),
            LABEL_GENERATION: str(assignment.generation),
            LABEL_RELEASE: str(assignment.release),
            LABEL_KILL_TIMEOUT: str(template.kill_timeout_seconds),
        },
        limits=limits_of(template, place.cpus),
        network=NETWORK,
        address=address,
        command=template.command,
        entrypoint=template.entrypoint,
        env={**template.env, **environment_of(assignment, place.node)},
        user=template.user,
        working_dir=template.working_dir,
        hostname=f"{assignment.proc}-{assignment.instance}",
        read_only=template.read_only,
        mounts=mounts_of(assignment, place.volumes_root),
        stop_timeout_seconds=template.kill_timeout_seconds,
        log_max_bytes=template.log_max_bytes,
        log_files=template.log_files,
        processes=place.processes,
        open_files=place.open_files,
    )


def environment_of(assignment: Assignment, node: str) -> dict[str, str]:
    """What the platform tells every instance of itself; it wins over the template. ``DEPLOYD_*``: names the original gave."""
    return {
        "LAIN_INSTANCE_NO": str(assignment.instance),
        "LAIN_NODE": node,
        "DEPLOYD_POD_INSTANCE_NO": str(assignment.instance),
        "DEPLOYD_POD_NAME": f"{assignment.app}.{assignment.type.value}.{assignment.proc}",
        "DEPLOYD_POD_NAMESPACE": assignment.app,
    }
