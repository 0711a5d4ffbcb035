"""A manifest written out in one canonical form: only what differs from the defaults, long forms, absolute paths.

``load(dump(manifest)) == manifest`` for every manifest but a resource, which is its templates. ``lain validate --output json`` shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lain_sdk.manifest.model import Manifest
from lain_sdk.manifest.parts import (
    MIB,
    BackupPolicy,
    Build,
    Port,
    Prepare,
    Proc,
    ReleaseSection,
    VolumeDir,
)
from lain_shared.model.pod import Probe, ProbeKind, ProcType, Strategy
from lain_shared.model.route import ProxyOptions

_DEFAULT = Proc(name="", type=ProcType.WORKER, section="")
_SAME = (
    "image", "user", "num_instances", "cpu", "https_only", "healthcheck", "setup_time", "kill_timeout", "drain_seconds",
    "deploy_deadline_seconds", "max_surge", "singleton", "stateful", "read_only", "secret_files_bypass", "service_name", "allow_clients",
)  # fmt: skip
_LISTS = ("entrypoint", "cmd", "mountpoint", "secret_files", "logs", "filters")


def dump(manifest: Manifest) -> str:
    """The canonical text: JSON, which is YAML too."""
    return json.dumps(to_document(manifest), ensure_ascii=False, indent=2) + "\n"


def to_document(manifest: Manifest) -> dict[str, Any]:
    """The canonical form as plain values."""
    document: dict[str, Any] = {"appname": manifest.appname}
    for name in ("giturl", "image"):
        if value := getattr(manifest, name):
            document[name] = value
    if manifest.build is not None:
        document["build"] = _build(manifest.build)
    if manifest.release is not None:
        document["release"] = _release(manifest.release)
    if manifest.test is not None:
        document["test"] = {"script": list(manifest.test.script)}
    if manifest.use_services:
        document["use_services"] = {app: list(services) for app, services in manifest.use_services.items()}
    if manifest.use_resources:
        document["use_resources"] = {
            app: {"services": list(use.services), **use.parameters} for app, use in manifest.use_resources.items()
        }
    if manifest.notify:
        document["notify"] = dict(manifest.notify)
    for proc in manifest.procs.values():
        document[f"portal.{proc.name}" if proc.type is ProcType.PORTAL else f"proc.{proc.name}"] = _proc(proc)
    return document


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value not in ("", (), None, {})
    }


def _build(build: Build) -> dict[str, Any]:
    found = _filled(
        {"base": build.base, "script": build.script, "build_arg": build.build_arg, "volumes": build.volumes}
    )
    if build.prepare is not None:
        found["prepare"] = _prepare(build.prepare)
    if build.dockerfile:
        found |= _filled(
            {"dockerfile": build.dockerfile, "context": build.context, "target": build.target, "args": dict(build.args)}
        )
    return found


def _prepare(prepare: Prepare) -> dict[str, Any]:
    return _filled(
        {"version": prepare.version, "script": prepare.script, "keep": prepare.keep, "build_arg": prepare.build_arg}
    )


def _release(release: ReleaseSection) -> dict[str, Any]:
    found = _filled({"script": release.script, "dest_base": release.dest_base})
    if release.copy:
        found["copy"] = [{"src": item.src, "dest": item.dest} for item in release.copy]
    return found


def _proc(proc: Proc) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if proc.type is not ProcType.PORTAL:
        found["type"] = proc.type.value
    for name in _SAME:
        if getattr(proc, name) != getattr(_DEFAULT, name):
            found[name] = getattr(proc, name)
    for name in _LISTS:
        if getattr(proc, name) != getattr(_DEFAULT, name):
            found[name] = list(getattr(proc, name))
    if proc.working_dir:
        found["workdir"] = proc.working_dir
    if proc.memory_bytes != _DEFAULT.memory_bytes:
        found["memory"] = _size(proc.memory_bytes)
    if proc.memory_request_bytes is not None:
        found["memory_request"] = _size(proc.memory_request_bytes)
    if proc.ports != ((Port(80),) if proc.type is ProcType.WEB else ()):
        found["port"] = [f"{port.number}:{port.proto}" for port in proc.ports]
    if proc.stream_ports:
        found["ports"] = {f"{port.source}:{port.target}/{port.proto}": dict(port.options) for port in proc.stream_ports}
    if proc.min_ready_seconds != proc.setup_time:
        found["min_ready_seconds"] = proc.min_ready_seconds
    if proc.strategy is not _usual_strategy(proc):
        found["strategy"] = proc.strategy.value
    for name in ("readiness", "liveness", "startup"):
        if (probe := getattr(proc, name)) is not None:
            found[name] = _probe(probe)
    for name in ("env", "labels"):
        if value := getattr(proc, name):
            found[name] = dict(value)
    return found | _health(proc) | _storage(proc) | _network(proc)


def _size(size: int) -> str:
    return f"{size // MIB}m"


def _usual_strategy(proc: Proc) -> Strategy:
    return Strategy.RECREATE if proc.singleton or proc.stateful or proc.declared_volumes else Strategy.START_FIRST


def _probe(probe: Probe) -> dict[str, Any]:
    usual = Probe(probe.kind)
    way: Any = {"path": probe.path, "port": probe.port}
    if probe.kind is ProbeKind.TCP:
        way = probe.port
    elif probe.kind is ProbeKind.EXEC:
        way = list(probe.command)
    timing = ("interval_seconds", "timeout_seconds", "failures", "successes")
    return {probe.kind.value: way} | {
        name: getattr(probe, name) for name in timing if getattr(probe, name) != getattr(usual, name)
    }


def _health(proc: Proc) -> dict[str, Any]:
    check = proc.container_healthcheck
    if check is None:
        return {}
    options = {"interval": check.interval_seconds, "timeout": check.timeout_seconds, "retries": check.retries}
    return {
        "container_healthcheck": {"cmd": "none" if check.command is None else list(check.command), "options": options}
    }


def _storage(proc: Proc) -> dict[str, Any]:
    found: dict[str, Any] = {}
    volumes = [
        _volume(volume)
        for volume in proc.volumes
        if volume != VolumeDir(volume.path, volume.path) or volume in proc.declared_volumes
    ]
    if volumes:
        found["volumes"] = volumes
    if proc.cloud_volumes is not None:
        found["cloud_volumes"] = {"type": proc.cloud_volumes.kind.value, "dirs": list(proc.cloud_volumes.dirs)}
    return found


def _volume(volume: VolumeDir) -> Any:
    policies = {
        name: _policy(policy)
        for name, policy in (("backup_full", volume.backup_full), ("backup_increment", volume.backup_increment))
        if policy is not None
    }
    return {volume.written: policies} if policies else volume.written


def _policy(policy: BackupPolicy) -> dict[str, str]:
    return {field.name: value for field in fields(policy) if (value := getattr(policy, field.name))}


def _network(proc: Proc) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if len(proc.dns_search) > 1:
        found["dns_search"] = list(proc.dns_search)
    if proc.proxy != ProxyOptions():
        proxy = proc.proxy
        found["proxy"] = _filled(
            {
                "read_timeout_seconds": proxy.read_timeout_seconds,
                "max_body": None if proxy.max_body_bytes is None else _size(proxy.max_body_bytes),
                "buffering": proxy.buffering,
                "sticky": proxy.sticky,
            }
        )
    return found
