"""Every key of a proc section, declared once: its name, what it takes, its default, what it does, which procs may have it."""

from __future__ import annotations

import re

from lain_sdk.manifest import probes, storage
from lain_sdk.manifest.names import host_problem
from lain_sdk.manifest.parts import MIB
from lain_sdk.manifest.ports import listening_ports, stream_ports
from lain_sdk.manifest.reading import Key, Kind, Spot
from lain_sdk.manifest.values import (
    absolute_path,
    assignments,
    boolean,
    checked,
    command,
    image,
    list_of,
    name,
    one_of,
    size,
    text,
    whole,
)
from lain_shared.placement import BadFilter, parse_filter

LEAST_MEMORY = 6 * MIB
DEFAULT_FILTER = "constraint:group==default"
OWN_VARIABLES = frozenset(
    [
        "LAIN_APPNAME",
        "LAIN_PROCNAME",
        "LAIN_APP_RELEASE_VERSION",
        "LAIN_DOMAIN",
        "LAIN_SERVICE_NAME",
        "LAIN_INSTANCE_NO",
        "DEPLOYD_POD_INSTANCE_NO",
        "DEPLOYD_POD_NAME",
        "DEPLOYD_POD_NAMESPACE",
    ]
)
"""Set by LAIN itself in every pod; a manifest cannot set them."""
_PATH_SEGMENT = re.compile(r"[A-Za-z0-9._~@:+=,!-]+\Z")
_FILTER = re.compile(
    r"(?:affinity|constraint):[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}(?:==|!=)~?[^\s~][^\x00-\x1f]{0,255}\Z"
)


def mountpoint_problem(written: str) -> str:
    """Why ``written`` is no ``host``, ``host/path`` or ``/path``; "" when it is."""
    host, slash, path = written.partition("/")
    if "://" in written:
        return "a mountpoint has no scheme"
    if not host and not slash:
        return "it is empty"
    if host and (problem := host_problem(host)):
        return problem
    segments = path.rstrip("/").split("/") if path.rstrip("/") else []
    for segment in segments:
        if segment in (".", ".."):
            return "a path cannot have . or .. in it"
        if not _PATH_SEGMENT.match(segment):
            return f"{segment[:40]!r} is no part of a path" if segment else "the path has an empty part"
    return "" if len(written) <= 512 else "it is longer than 512 characters"


mountpoint = checked("`host`, `host/path` or `/path`", mountpoint_problem)


def _filter_problem(written: str) -> str:
    """As placement itself judges it, so that no filter is taken here that no node can be tried against."""
    if not _FILTER.match(written):
        return "this is no filter"
    try:
        parse_filter(written)
    except BadFilter as error:
        return error.why
    return ""


placement_filter = checked(
    "`constraint:` or `affinity:`, a key, `==` or `!=`, a value (`~` before it: soft)", _filter_problem
)

_variables = assignments("`K=V` in a list, or a map", r"[A-Za-z_][A-Za-z0-9_.-]{0,255}", "=", mapping=True)


def _read_env(spot: Spot) -> dict[str, str] | None:
    values = _variables.read(spot)
    for own in sorted(OWN_VARIABLES & set(values or ())):
        spot.refuse(f"{own} is set by LAIN itself", code="conflict", found=own, fix="choose another name")
    return values


env: Kind[dict[str, str]] = Kind(_variables.allowed, _read_env)
_labels = assignments(
    "`k:v` in a list, one `k:v`, or a map", r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", ":", mapping=True, single=True
)


def _read_labels(spot: Spot) -> dict[str, str] | None:
    values = _labels.read(spot)
    for own in sorted(key for key in values or () if key.startswith("lain.")):
        spot.refuse(
            "labels that begin with lain. are LAIN's own", code="conflict", found=own, fix="choose another name"
        )
    return values


labels: Kind[dict[str, str]] = Kind(_labels.allowed, _read_labels)

TYPE = Key("type", one_of("web", "worker", "oneshot", "portal"), "worker", "what it is", only="`proc.X`, `service.X`")
IMAGE = Key("image", image(host=False), "", "runs this instead of the app's own image", shown="the app's release image")
ENTRYPOINT = Key("entrypoint", command, None, "the container's entrypoint", shown="the image's own")
CMD = Key("cmd", command, None, "the container's command", shown="the image's own")
USER = Key(
    "user",
    text("a user, uid or user:group", pattern=r"[A-Za-z0-9_.-]+(?::[A-Za-z0-9_.-]+)?", numbers=True),
    "",
    "runs as this user; it must exist in the image, or be a number",
    shown="the image's own",
)
WORKDIR = Key(
    "workdir", absolute_path(), "", "directory it starts in; wins over `working_dir`", shown="the image's own"
)
WORKING_DIR = Key("working_dir", absolute_path(), "", "directory it starts in", shown="the image's own")
NUM_INSTANCES = Key(
    "num_instances", whole(0, 1000), 1, "how many; counts at every deploy unless `lain scale` has set another number"
)
CPU = Key("cpu", whole(0, 8), 0, "0: a share, no quota; 1 to 8: a quota of level/8 of half the node's cores")
MEMORY = Key("memory", size(LEAST_MEMORY), 32 * MIB, "hard limit, no swap", shown="32m")
MEMORY_REQUEST = Key(
    "memory_request", size(1 * MIB), None, "what placement reserves; at most `memory`", shown="`memory`"
)
PORT = Key(
    "port",
    listening_ports,
    None,
    "what it listens on; the first TCP port takes routes and probes and is the variable `PORT`",
    shown="web: 80, else none",
)
PORTS = Key("ports", stream_ports, (), "TCP and UDP ports of the whole cluster that lead here")
MOUNTPOINT = Key(
    "mountpoint",
    list_of(mountpoint, most=200),
    None,
    "where routers offer it",
    shown="`web`: the app's default hosts",
    only="web",
    only_types=("web",),
)
HTTPS_ONLY = Key("https_only", boolean, False, "redirect HTTP to HTTPS", only="web", only_types=("web",))
HEALTHCHECK = Key(
    "healthcheck", probes.url_path, "", "short for `readiness: {http: …}`", only="web", only_types=("web",)
)
CONTAINER_HEALTHCHECK = Key(
    "container_healthcheck",
    probes.container_healthcheck,
    None,
    "older form of `readiness: {exec: …}`; `cmd: none`: no check",
)
READINESS = Key(
    "readiness",
    probes.probe,
    None,
    "ready for requests?",
    shown="`container_healthcheck`, else `healthcheck`, else a TCP connect to `port`, else running for 2 s",
)
LIVENESS = Key("liveness", probes.probe, None, "still alive? When not, it is restarted", shown="none")
STARTUP = Key(
    "startup",
    probes.probe,
    None,
    "done starting? Until then no other check runs; when it never is, it is restarted",
    shown="none",
)
SETUP_TIME = Key("setup_time", whole(0, 300, "seconds"), 0, "default of `min_ready_seconds`")
MIN_READY = Key(
    "min_ready_seconds",
    whole(0, 300, "seconds"),
    None,
    "how long it must stay ready before its predecessor drains",
    shown="`setup_time`",
)
KILL_TIMEOUT = Key("kill_timeout", whole(1, 300, "seconds"), 10, "from SIGTERM to SIGKILL")
DRAIN = Key(
    "drain_seconds",
    whole(0, 300, "seconds"),
    10,
    "how long requests in flight are waited for once no router sends new ones",
)
DEADLINE = Key(
    "deploy_deadline_seconds", whole(1, 86400, "seconds"), 300, "a deploy without progress for so long has failed"
)
STRATEGY = Key(
    "strategy",
    one_of("start_first", "recreate"),
    None,
    "`start_first`: the new one is ready before the old one drains; `recreate`: the old one is gone first",
    shown="start_first; recreate with volumes, `stateful` or `singleton`",
)
MAX_SURGE = Key("max_surge", whole(1, 100), 1, "how many instances above the wanted number a rollout may run")
SINGLETON = Key("singleton", boolean, False, "at most one instance may ever speak on the network; recreate, no volumes")
STATEFUL = Key("stateful", boolean, False, "a lost node does not move the instance")
READ_ONLY = Key("read_only", boolean, False, "root file system read-only; /tmp is then in memory")
ENV = Key("env", env, None, "environment variables", shown="none")
VOLUMES = Key(
    "volumes", storage.volumes, (), "directories that survive the container, one an instance; /lain/logs is always one"
)
PERSISTENT_DIRS = Key("persistent_dirs", storage.volumes, (), "older name of `volumes`; both together are joined")
CLOUD_VOLUMES = Key("cloud_volumes", storage.cloud_volumes, None, "directories on the shared file system", shown="none")
SECRET_FILES = Key("secret_files", list_of(storage.secret_file, most=200), (), "files that the vault provides")
SECRET_BYPASS = Key("secret_files_bypass", boolean, False, "deploy without them when the vault is away")
LOGS = Key(
    "logs", list_of(storage.log_file, most=200), (), "files under /lain/logs to collect; `monitor.log` holds metrics"
)
LABELS = Key("labels", labels, None, "labels of the container", shown="none")
FILTERS = Key(
    "filters",
    list_of(placement_filter, single=True, most=20),
    None,
    f"which nodes it may run on; `{DEFAULT_FILTER}` is added unless a `constraint:group` is given; [] : any node",
    shown=DEFAULT_FILTER,
)
DNS_SEARCH = Key(
    "dns_search", list_of(checked("a domain", host_problem), most=6), (), "search domains; `<app>.lain` is always one"
)
PROXY = Key(
    "proxy",
    probes.proxy,
    None,
    "what routers do differently",
    shown="the routers' own",
    only="web",
    only_types=("web",),
)
SERVICE_NAME = Key("service_name", name, "", "the service it publishes; needed", only="portal", only_types=("portal",))
ALLOW_CLIENTS = Key(
    "allow_clients",
    text("a glob of app names", pattern=r"[a-z0-9.*?\[\]!,-]{1,200}"),
    "**",
    "which apps may use the service",
    only="portal",
    only_types=("portal",),
)

COMMON = (
    TYPE, IMAGE, ENTRYPOINT, CMD, USER, WORKDIR, WORKING_DIR, NUM_INSTANCES, CPU, MEMORY, MEMORY_REQUEST, PORT, PORTS, MOUNTPOINT,
    HTTPS_ONLY, HEALTHCHECK, CONTAINER_HEALTHCHECK, READINESS, LIVENESS, STARTUP, SETUP_TIME, MIN_READY, KILL_TIMEOUT, DRAIN, DEADLINE,
    STRATEGY, MAX_SURGE, SINGLETON, STATEFUL, READ_ONLY, ENV, VOLUMES, PERSISTENT_DIRS, CLOUD_VOLUMES, SECRET_FILES, SECRET_BYPASS,
    LOGS, LABELS, FILTERS, DNS_SEARCH, PROXY, SERVICE_NAME, ALLOW_CLIENTS,
)  # fmt: skip
