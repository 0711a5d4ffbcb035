"""Docker's documents and our nouns, one into the other: pure, no calls. Hardening lives here because no caller may forget it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lain_deployd.agent.engine import (
    Container,
    ContainerSpec,
    ContainerState,
    Credentials,
    EngineEvent,
    EngineInfo,
    Glance,
    Image,
    Limits,
    PullProgress,
)

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""All that a pod keeps: what images need to drop to their own user, and ports below 1024. No NET_RAW."""
OOM_SCORE = 500
"""When the machine itself is out of memory, pods go before etcd, the Engine and the daemons."""
CPU_PERIOD_MICROSECONDS = 100_000
TMPFS_OPTIONS = "rw,nosuid,nodev,mode=1777,size=64m"
EXITED = re.compile(r"(?:Exited|Restarting) \((\d+)\)")
"""How the Engine's list tells an exit code."""
BRIDGE = "com.docker.network.bridge."
GATEWAY_MODE_SINCE = 28
"""From this Engine on, a bridge drops what is routed to its containers unless told otherwise."""


def create(spec: ContainerSpec) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    body: dict[str, Any] = {
        "Image": spec.image,
        "Labels": dict(spec.labels),
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Hostname": spec.hostname,
        "StopTimeout": spec.stop_timeout_seconds,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            **limits(spec.limits),
            "NetworkMode": spec.network or "none",
            "Binds": [f"{m.source}:{m.target}:{'ro' if m.read_only else 'rw'}" for m in spec.mounts],
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {
                "Type": "json-file",
                "Config": {"max-size": str(spec.log_max_bytes), "max-file": str(spec.log_files)},
            },
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            "SecurityOpt": ["no-new-privileges"],
            "PidsLimit": spec.processes,
            "OomScoreAdj": OOM_SCORE,
            "Ulimits": [
                {"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "ReadonlyRootfs": spec.read_only,
        },
    }
    if spec.read_only:
        body["HostConfig"]["Tmpfs"] = {"/tmp": TMPFS_OPTIONS}  # noqa: S108 - the container's own
    if spec.network:
        body["NetworkingConfig"] = {"EndpointsConfig": {spec.network: {"IPAMConfig": {"IPv4Address": spec.address}}}}
    if spec.command is not None:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.user:
        body["User"] = spec.user
    if spec.working_dir:
        body["WorkingDir"] = spec.working_dir
    return body


def limits(wanted: Limits) -> dict[str, Any]:
    """Limits as ``create`` and ``update`` take them. Memory and memory with swap are equal: no swap."""
    quota = -1 if wanted.cpu_quota_percent is None else round(wanted.cpu_quota_percent * CPU_PERIOD_MICROSECONDS / 100)
    return {
        "Memory": wanted.memory_bytes,
        "MemorySwap": wanted.memory_bytes,
        "MemoryReservation": wanted.memory_reservation_bytes or 0,
        "CpuPeriod": CPU_PERIOD_MICROSECONDS,
        "CpuQuota": quota if quota < 0 else max(quota, 1000),
        "CpuShares": wanted.cpu_weight,
    }


def container(document: Mapping[str, Any]) -> Container:
    """What ``GET /containers/{id}/json`` says."""
    state, host, config = document["State"], document["HostConfig"], document["Config"]
    quota, period = host.get("CpuQuota") or 0, host.get("CpuPeriod") or CPU_PERIOD_MICROSECONDS
    ended = state["Status"] in ("exited", "dead")
    return Container(
        id=document["Id"],
        name=document["Name"].lstrip("/"),
        labels=config.get("Labels") or {},
        state=ContainerState(state["Status"]),
        image=config["Image"],
        limits=Limits(
            memory_bytes=host.get("Memory") or 0,
            cpu_quota_percent=quota * 100 / period if quota > 0 else None,
            memory_reservation_bytes=host.get("MemoryReservation") or None,
            cpu_weight=host.get("CpuShares") or 0,
        ),
        address=_address(document),
        created_at=when(document["Created"]) or 0.0,
        started_at=when(state.get("StartedAt")),
        finished_at=when(state.get("FinishedAt")),
        exit_code=state.get("ExitCode") if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=state.get("Error") or "",
    )


def _address(document: Mapping[str, Any]) -> str:
    networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
    for endpoint in networks.values():
        if given := ((endpoint or {}).get("IPAMConfig") or {}).get("IPv4Address"):
            return str(given)
    return ""


def listed(document: Mapping[str, Any]) -> Container:
    """What an item of ``GET /containers/json`` says of a container that cannot be inspected: if it does not run, it is no use any more."""
    state = ContainerState(document["State"])
    kept = (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING, ContainerState.REMOVING)
    return Container(
        id=document["Id"],
        name=document["Names"][0].lstrip("/"),
        labels=document.get("Labels") or {},
        state=state if state in kept else ContainerState.DEAD,
        image=document["Image"],
        limits=Limits(0),
        address=_address(document),
        created_at=float(document["Created"]),
    )


def glance(document: Mapping[str, Any]) -> Glance:
    """What an item of ``GET /containers/json`` says."""
    networks = (document.get("NetworkSettings") or {}).get("Networks") or {}
    ended = EXITED.match(document.get("Status") or "")
    return Glance(
        name=document["Names"][0].lstrip("/") if document.get("Names") else document["Id"][:12],
        state=ContainerState(document["State"]),
        labels=document.get("Labels") or {},
        addresses={name: (endpoint or {}).get("IPAddress") or "" for name, endpoint in networks.items()},
        exit_code=int(ended[1]) if ended else None,
    )


def image(document: Mapping[str, Any]) -> Image:
    references = (*(document.get("RepoTags") or ()), *(document.get("RepoDigests") or ()))
    user = (document.get("Config") or {}).get("User") or ""
    return Image(document["Id"], references, document.get("Size") or 0, user)


def info(document: Mapping[str, Any]) -> EngineInfo:
    return EngineInfo(
        id=document["ID"],
        version=document["ServerVersion"],
        cpus=document["NCPU"],
        memory_bytes=document["MemTotal"],
        kernel=document["KernelVersion"],
        containers=document["Containers"],
        live_restore=bool(document.get("LiveRestoreEnabled")),
        data_root=document.get("DockerRootDir") or "",
    )


def event(document: Mapping[str, Any]) -> EngineEvent | None:
    """A line of ``GET /events``; None when it is not about a container."""
    if document.get("Type") != "container":
        return None
    actor = document["Actor"]
    action = str(document["Action"]).partition(":")[0]  # "exec_create: /bin/sh -c …" holds the whole command
    return EngineEvent(document["timeNano"], action, actor["ID"], actor.get("Attributes") or {})


def memory_used(stats: Mapping[str, Any]) -> int | None:
    """Usage without the file cache the kernel would give back (cgroup v1: total_inactive_file, v2: inactive_file)."""
    memory = stats.get("memory_stats") or {}
    if (usage := memory.get("usage")) is None:
        return None
    details = memory.get("stats") or {}
    return max(0, int(usage) - int(details.get("total_inactive_file", details.get("inactive_file", 0))))


def network(name: str, subnet: str, bridge: str, engine_major: int) -> dict[str, Any]:
    """The body of ``POST /networks/create``."""
    options = {
        BRIDGE + "name": bridge,
        BRIDGE + "enable_icc": "false",
        BRIDGE + "enable_ip_masquerade": "false",
    }
    if engine_major >= GATEWAY_MODE_SINCE:
        options[BRIDGE + "gateway_mode_ipv4"] = "nat-unprotected"
    return {
        "Name": name,
        "CheckDuplicate": True,
        "Driver": "bridge",
        "IPAM": {"Driver": "default", "Config": [{"Subnet": subnet}]},
        "Options": options,
        "Labels": {"lain.network": "pods"},
    }


def network_differs(document: Mapping[str, Any], subnet: str) -> str | None:
    """Why an existing network is not the one wanted; None when it is."""
    subnets = [config.get("Subnet") for config in (document.get("IPAM") or {}).get("Config") or ()]
    if subnets != [subnet]:
        return f"its subnet is {', '.join(map(str, subnets)) or 'unset'}, wanted {subnet}"
    options = document.get("Options") or {}
    for option in ("enable_icc", "enable_ip_masquerade"):
        if options.get(BRIDGE + option) != "false":
            return f"its option {option} is {options.get(BRIDGE + option, 'unset')}, wanted false"
    return None


def when(text: str | None) -> float | None:
    """Docker's time in seconds since the epoch; its zero time is None."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text).timestamp()


def seconds_text(nanoseconds: int) -> str:
    """Nanoseconds as the Engine's queries take them."""
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"


def major_version(text: str) -> int:
    head = text.partition(".")[0]
    return int(head) if head.isdigit() else 0


class PullTally:
    """Adds up a pull's progress lines, layer by layer."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def take(self, line: Mapping[str, Any]) -> str | None:
        """Count one line; the failure it tells of, if it does."""
        if "error" in line or "errorDetail" in line:
            return str((line.get("errorDetail") or {}).get("message") or line.get("error"))
        layer, status, detail = line.get("id", ""), line.get("status", ""), line.get("progressDetail") or {}
        if status == "Downloading" and detail.get("total"):
            self._total[layer] = detail["total"]
            self._done[layer] = detail.get("current", 0)
        elif status in ("Verifying Checksum", "Download complete", "Pull complete") and layer in self._total:
            self._done[layer] = self._total[layer]
        return None

    @property
    def so_far(self) -> PullProgress:
        return PullProgress(sum(self._done.values()), sum(self._total.values()))


def registry_auth(reference: str, credentials: Credentials) -> str:
    """The header of a pull: who asks the registry."""
    document = {
        "username": credentials.user, "password": credentials.password, "serveraddress": reference.partition("/")[0],
    }  # fmt: skip
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode()
