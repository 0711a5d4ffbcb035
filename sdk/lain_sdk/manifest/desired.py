"""A manifest as what the cluster should run: the pure translation to ``lain_shared.model.pod.Desired``.

Everything that is not in the manifest (domains, digests, release number, the app's own environment) is handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lain_sdk.manifest.faults import Faults
from lain_sdk.manifest.parts import Proc
from lain_sdk.manifest.routes import expand
from lain_shared.model.pod import Desired, PodTemplate, Probe, ProbeKind, ProcType, Volume
from lain_shared.model.route import Route

if TYPE_CHECKING:
    from lain_sdk.manifest.model import Manifest


def images(manifest: Manifest, meta_version: str) -> dict[str, str]:
    """Proc → ``repository:tag`` in the cluster's registry: what has to be resolved to digests for ``desired``."""
    own = f"{manifest.appname}:release-{meta_version}"
    return {name: proc.image or own for name, proc in manifest.procs.items()}


def routes(manifest: Manifest, domains: Sequence[str]) -> dict[str, tuple[Route, ...]]:
    """Web proc → its routes. Two procs of the manifest on one host and path are a fault (``ManifestInvalid``)."""
    faults = Faults(manifest.file)
    found: dict[str, tuple[Route, ...]] = {}
    owners: dict[tuple[str, str], str] = {}
    for name, proc in manifest.procs.items():
        if proc.type is not ProcType.WEB:
            continue
        found[name] = expand(proc, manifest.appname, domains)
        for route in found[name]:
            owner = owners.setdefault((route.host, route.path), name)
            if owner != name:
                path = (proc.section, "mountpoint")
                faults.add(
                    proc.line,
                    1,
                    path,
                    "conflict",
                    f"{route} is claimed twice",
                    found=f"by {owner} and by {name}",
                    fix="give it to one",
                )
    faults.raise_if_any()
    return found


def readiness(proc: Proc) -> Probe | None:
    """``readiness``, else ``container_healthcheck``, else ``healthcheck``, else a TCP connect to the port; None: running for 2 s."""
    if proc.type is ProcType.ONESHOT:
        return None
    if proc.readiness is not None:
        return proc.readiness
    old = proc.container_healthcheck
    if old is not None:
        if old.command is None:
            return None
        return Probe(
            ProbeKind.EXEC, command=old.command, interval_seconds=float(old.interval_seconds),
            timeout_seconds=float(old.timeout_seconds), failures=old.retries,
        )  # fmt: skip
    if proc.port is None:
        return None
    if proc.healthcheck:
        return Probe(ProbeKind.HTTP, port=proc.port, path=proc.healthcheck)
    return Probe(ProbeKind.TCP, port=proc.port)


def environment(
    manifest: Manifest,
    proc: Proc,
    *,
    domains: Sequence[str],
    env: Mapping[str, str],
    meta_version: str,
    timezone: str = "UTC",
) -> dict[str, str]:
    """What every instance of ``proc`` finds in its environment; the agent adds ``LAIN_INSTANCE_NO`` and ``DEPLOYD_POD_*``.

    ``env`` (``lain env``) wins over the manifest's ``env``, which wins over ``TZ`` and ``PORT``; nothing wins over ``LAIN_*``.
    """
    found = {"TZ": timezone}
    if proc.port is not None:
        found["PORT"] = str(proc.port)
    found.update(proc.env)
    found.update(env)
    found["LAIN_APPNAME"] = manifest.appname
    found["LAIN_PROCNAME"] = proc.name
    found["LAIN_APP_RELEASE_VERSION"] = meta_version
    found["LAIN_DOMAIN"] = next(iter(domains[1:2]), domains[0] if domains else "")
    if proc.type is ProcType.PORTAL:
        found["LAIN_SERVICE_NAME"] = proc.service_name
    return found


def desired(
    manifest: Manifest,
    *,
    domains: Sequence[str],
    images: Mapping[str, str],
    release: int,
    env: Mapping[str, str],
    meta_version: str,
    timezone: str = "UTC",
) -> tuple[Desired, ...]:
    """What should run, one for each proc, in the manifest's order, without operators' overrides.

    ``domains``: the cluster's, the main one first. ``images``: proc → ``repository@sha256:…``; ``KeyError`` for a proc without one.
    """
    found = routes(manifest, domains)
    return tuple(
        Desired(
            app=manifest.appname,
            proc=name,
            type=proc.type,
            release=release,
            template=PodTemplate(
                image=images[name],
                command=proc.cmd,
                entrypoint=proc.entrypoint,
                env=environment(manifest, proc, domains=domains, env=env, meta_version=meta_version, timezone=timezone),
                user=proc.user,
                working_dir=proc.working_dir,
                port=proc.port,
                cpu=proc.cpu,
                memory_bytes=proc.memory_bytes,
                memory_request_bytes=proc.memory_request_bytes,
                volumes=_volumes(proc),
                read_only=proc.read_only,
                labels=dict(proc.labels),
                readiness=readiness(proc),
                liveness=proc.liveness,
                startup=proc.startup,
                kill_timeout_seconds=proc.kill_timeout,
            ),
            instances=0 if proc.type is ProcType.PORTAL else proc.num_instances,
            strategy=proc.strategy,
            max_surge=proc.max_surge,
            singleton=proc.singleton,
            stateful=proc.stateful,
            filters=proc.filters,
            routes=found.get(name, ()),
            proxy=proc.proxy,
            min_ready_seconds=float(proc.min_ready_seconds),
            drain_seconds=float(proc.drain_seconds),
            deploy_deadline_seconds=float(proc.deploy_deadline_seconds),
        )
        for name, proc in manifest.procs.items()
    )


def _volumes(proc: Proc) -> tuple[Volume, ...]:
    """The declared ones. ``/lain/logs`` is not among them: a volume ties an instance to its node, logs must not."""
    volumes = [Volume(volume.path) for volume in proc.declared_volumes]
    if proc.cloud_volumes is not None:
        volumes += [Volume(path, f"cloud-{proc.cloud_volumes.kind}") for path in proc.cloud_volumes.dirs]
    return tuple(volumes)
