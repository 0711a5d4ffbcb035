"""Proc sections to ``Proc``s: which keys name a proc, ``service.X`` as two of them, dependent defaults, and contradictions."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from lain_sdk.manifest import proc_keys as k
from lain_sdk.manifest.names import NAME_ALLOWED, app_domain, name_problem
from lain_sdk.manifest.parts import Port, Proc
from lain_sdk.manifest.reading import Found, Key, Kind, Section, Spot
from lain_sdk.manifest.storage import union
from lain_shared.model.pod import Probe, ProbeKind, ProcType, Strategy
from lain_shared.model.route import ProxyOptions

TYPED = ("web", "worker", "oneshot")
SECTIONS = (*TYPED, "proc", "portal", "service")
MAX_PROCS = 100

PORTAL_BODY = Key(
    "portal",
    Kind("a map of a portal's keys", lambda spot: spot),
    None,
    "the portal that publishes the service",
    required=True,
)
PROC = Section("a proc", k.COMMON, "What runs.")
PORTAL = Section("a portal", k.COMMON, "What stands between clients and a service.")
SERVICE = Section("a service", (*k.COMMON, PORTAL_BODY), "A proc and the portal that publishes it.")


def is_proc_key(key: str) -> bool:
    """The key begins as a proc section does."""
    return key.partition(".")[0] in SECTIONS


def read_procs(at_key: Spot, at_value: Spot, appname: str) -> tuple[Proc, ...]:
    """The procs of one section; () after reporting why there are none. ``service.X`` gives two."""
    kind, dot, name = at_key.node.text.partition(".")
    if not dot and kind not in TYPED:
        at_key.refuse(f"{kind} needs a name", allowed=f"{kind}.NAME: {NAME_ALLOWED}", fix=f"write {kind}.something")
        return ()
    name = name if dot else kind
    if "." in name:
        at_key.refuse(
            "a proc's key has one dot at most",
            allowed=f"{kind}.NAME: {NAME_ALLOWED}",
            fix=f"write {kind}.{name.replace('.', '-')}",
        )
        return ()
    if problem := name_problem(name):
        at_key.refuse(f"the proc's name is no good: {problem}", found=name[:80], allowed=NAME_ALLOWED)
        return ()
    if kind == "service":
        return _service(name, at_value, appname)
    section = PORTAL if kind == "portal" else PROC
    found = section.read(at_value)
    if found is None:
        return ()
    proc = _proc(name, _type_of(kind, found), found, appname)
    if proc.type is ProcType.PORTAL and not proc.service_name and not found.has(k.SERVICE_NAME):
        _missing_service_name(found)
    return (proc,)


def _missing_service_name(found: Found) -> None:
    place = found.spot.under("service_name", found.spot.node)
    place.refuse(
        "service_name is missing",
        code="missing_key",
        found="nothing",
        allowed=NAME_ALLOWED,
        fix="add service_name: the service it publishes",
    )


def _type_of(kind: str, found: Found) -> ProcType:
    if kind == "proc":
        return ProcType(k.TYPE.of(found))
    declared = found.values.get("type")
    if declared is not None and declared != kind:
        found.where(k.TYPE).refuse(
            f"a {kind} section holds a {kind}",
            code="conflict",
            allowed=f"`{kind}`",
            fix="remove the type, or use proc.NAME",
        )
    return ProcType(kind)


def _service(name: str, at_value: Spot, appname: str) -> tuple[Proc, ...]:
    """``service.X``: the proc X, and the portal ``portal-X`` that publishes it and listens, unless told otherwise, on the same port."""
    found = SERVICE.read(at_value)
    if found is None:
        return ()
    kind = ProcType(k.TYPE.of(found))
    if kind is ProcType.PORTAL:
        found.where(k.TYPE).refuse(
            "a service is no portal: it has one",
            code="conflict",
            allowed="`web`, `worker` or `oneshot`",
            fix="remove the type",
        )
        kind = ProcType.WORKER
    proc = _proc(name, kind, found, appname)
    at_body = PORTAL_BODY.of(found)
    body = None if at_body is None else PORTAL.read(at_body)
    if body is None:
        return (proc,)
    portal = _proc(f"portal-{name}", _type_of("portal", body), body, appname)
    if portal.service_name and portal.service_name != name:
        body.where(k.SERVICE_NAME).refuse(
            "the portal of service.X publishes X", code="conflict", allowed=f"`{name}`", fix="remove service_name"
        )
    ports = portal.ports or proc.ports
    if name_problem(portal.name):
        at_value.refuse("the name is too long for its portal", allowed=f"portal-{name} must be a name too")
    return (proc, replace(portal, section=proc.section, service_name=name, ports=ports))


def _proc(name: str, kind: ProcType, found: Found, appname: str) -> Proc:
    for key in k.COMMON:
        if key.only_types and kind.value not in key.only_types and found.has(key):
            fix = "use readiness: {http: …}" if key is k.HEALTHCHECK else f"remove it, or make the proc a {key.only}"
            place = found.where(key)
            place.refuse(f"{key.name} is for {key.only} procs; this is a {kind.value}", code="conflict", fix=fix)
    ports = k.PORT.of(found)
    if ports is None:
        ports = (Port(80),) if kind is ProcType.WEB else ()
    elif kind is ProcType.WEB and all(port.proto != "tcp" for port in ports):
        found.where(k.PORT).refuse("a web proc needs a TCP port", code="conflict", fix="add a TCP port")
    volumes = union(found.spot, k.PERSISTENT_DIRS.of(found), k.VOLUMES.of(found))
    setup_time = k.SETUP_TIME.of(found)
    min_ready = k.MIN_READY.of(found)
    given_type = found.spot.path[0] if found.spot.path else ""
    proc = Proc(
        name=name,
        type=kind,
        section=str(given_type),
        image=k.IMAGE.of(found),
        entrypoint=k.ENTRYPOINT.of(found),
        cmd=k.CMD.of(found),
        user=k.USER.of(found),
        working_dir=k.WORKDIR.of(found) or k.WORKING_DIR.of(found),
        num_instances=k.NUM_INSTANCES.of(found),
        cpu=k.CPU.of(found),
        memory_bytes=k.MEMORY.of(found),
        memory_request_bytes=k.MEMORY_REQUEST.of(found),
        ports=ports,
        stream_ports=k.PORTS.of(found),
        mountpoint=k.MOUNTPOINT.of(found) or (),
        https_only=k.HTTPS_ONLY.of(found),
        healthcheck=k.HEALTHCHECK.of(found),
        container_healthcheck=k.CONTAINER_HEALTHCHECK.of(found),
        readiness=_probe(k.READINESS, found, ports),
        liveness=_probe(k.LIVENESS, found, ports),
        startup=_probe(k.STARTUP, found, ports),
        setup_time=setup_time,
        kill_timeout=k.KILL_TIMEOUT.of(found),
        min_ready_seconds=setup_time if min_ready is None else min_ready,
        drain_seconds=k.DRAIN.of(found),
        deploy_deadline_seconds=k.DEADLINE.of(found),
        max_surge=k.MAX_SURGE.of(found),
        singleton=k.SINGLETON.of(found),
        stateful=k.STATEFUL.of(found),
        read_only=k.READ_ONLY.of(found),
        env=MappingProxyType(k.ENV.of(found) or {}),
        volumes=volumes,
        cloud_volumes=k.CLOUD_VOLUMES.of(found),
        secret_files=tuple(dict.fromkeys(k.SECRET_FILES.of(found))),
        secret_files_bypass=k.SECRET_BYPASS.of(found),
        logs=tuple(dict.fromkeys(k.LOGS.of(found))),
        labels=MappingProxyType(k.LABELS.of(found) or {}),
        filters=_filters(k.FILTERS.of(found)),
        dns_search=_dns_search(k.DNS_SEARCH.of(found), appname),
        proxy=k.PROXY.of(found) or ProxyOptions(),
        service_name=k.SERVICE_NAME.of(found),
        allow_clients=k.ALLOW_CLIENTS.of(found),
        line=found.spot.node.line,
    )
    _contradictions(proc, found)
    return replace(proc, strategy=_strategy(proc, found))


def _probe(key: Key[Probe, None], found: Found, ports: tuple[Port, ...]) -> Probe | None:
    """The probe, its port filled in; HTTP without any port to ask is a fault."""
    probe = key.of(found)
    if probe is None or probe.kind is not ProbeKind.HTTP or probe.port:
        return probe
    port = next((port.number for port in ports if port.proto == "tcp"), None)
    if port is None:
        found.where(key).refuse(
            "there is no port to ask",
            code="conflict",
            found="no port",
            fix="write http: {path: …, port: …}, or give the proc a port",
        )
        return None
    return replace(probe, port=port)


def _filters(given: tuple[str, ...] | None) -> tuple[str, ...]:
    if given is None:
        return (k.DEFAULT_FILTER,)
    if not given or any(one.startswith(("constraint:group==", "constraint:group!=")) for one in given):
        return given
    return (*given, k.DEFAULT_FILTER)


def _dns_search(given: tuple[str, ...], appname: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*given, f"{app_domain(appname)}.lain")))


def _strategy(proc: Proc, found: Found) -> Strategy:
    asked = k.STRATEGY.of(found)
    if asked is not None:
        return Strategy(asked)
    kept = proc.singleton or proc.stateful or proc.declared_volumes
    return Strategy.RECREATE if kept else Strategy.START_FIRST


def _contradictions(proc: Proc, found: Found) -> None:
    """Keys that are good each and wrong together."""
    request = proc.memory_request_bytes
    if request is not None and request > proc.memory_bytes and k.MEMORY.name not in found.waiting:
        found.where(k.MEMORY_REQUEST).refuse(
            "memory_request is more than memory", code="conflict", fix="reserve at most the limit"
        )
    if proc.type is ProcType.WEB:
        _mountpoints(proc, found)
    if proc.singleton:
        if proc.num_instances > 1:
            found.where(k.NUM_INSTANCES).refuse(
                "a singleton has at most one instance", code="conflict", allowed="0 or 1"
            )
        if proc.declared_volumes:
            place = found.where(k.VOLUMES) if found.has(k.VOLUMES) else found.where(k.PERSISTENT_DIRS)
            place.refuse(
                "a singleton has no volumes: it may move to any node",
                code="conflict",
                fix="remove the volumes, or singleton",
            )
    if k.STRATEGY.of(found) == "start_first" and (proc.singleton or proc.stateful):
        why = "singleton" if proc.singleton else "stateful"
        found.where(k.STRATEGY).refuse(
            f"{why} means recreate", code="conflict", allowed="`recreate`", fix="remove strategy"
        )


def _mountpoints(proc: Proc, found: Found) -> None:
    """Only ``web`` has default hosts; any other web proc says where it is found."""
    if proc.name == "web":
        return
    if not proc.mountpoint and found.where(k.MOUNTPOINT).node.items == () and k.MOUNTPOINT.name not in found.waiting:
        place = found.spot.under("mountpoint", found.where(k.MOUNTPOINT).node)
        place.refuse(
            f"web proc {proc.name} needs its own mountpoint",
            code="missing_key",
            found="nothing",
            allowed=k.MOUNTPOINT.kind.allowed,
            fix=f"add mountpoint: [/{proc.name}]",
        )
    for written in proc.mountpoint:
        if written.strip("/") == "":
            found.where(k.MOUNTPOINT).refuse(
                "/ alone leads nowhere here: only web has the default hosts",
                found="/",
                allowed=k.MOUNTPOINT.kind.allowed,
                fix=f"write /{proc.name}, or a host",
            )
