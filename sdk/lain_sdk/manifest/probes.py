"""``readiness``, ``liveness``, ``startup``, the older ``container_healthcheck``, and the router's per-proc options ``proxy``."""

from __future__ import annotations

import re
from dataclasses import replace

from lain_sdk.manifest.parts import MIB, ContainerHealthcheck
from lain_sdk.manifest.reading import Key, Kind, Section, Spot
from lain_sdk.manifest.source import Shape
from lain_sdk.manifest.values import boolean, checked, command, raw_text, seconds, size, whole
from lain_shared.model.pod import Probe, ProbeKind
from lain_shared.model.route import ProxyOptions

_URL_PATH = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*\Z")


def _url_path_problem(path: str) -> str:
    if not path.startswith("/"):
        return "the path does not start with /"
    return "" if len(path) <= 1024 and _URL_PATH.match(path) else "this is no URL path"


url_path = checked(
    "a URL path that starts with /",
    _url_path_problem,
    fix=lambda path: f"write /{path}" if not path.startswith("/") else "",
)

HTTP_PATH = Key("path", url_path, "/", "what is asked for with GET; 2xx and 3xx are good")
HTTP_PORT = Key("port", whole(1, 65535), 0, "the port asked", shown="the proc's port")
HTTP = Section("http", (HTTP_PATH, HTTP_PORT), "An HTTP check.")


def _read_http(spot: Spot) -> Probe | None:
    if spot.node.shape is Shape.SCALAR:
        path = url_path.read(spot)
        return None if path is None else Probe(ProbeKind.HTTP, path=path)
    found = HTTP.read(spot)
    return None if found is None else Probe(ProbeKind.HTTP, path=HTTP_PATH.of(found), port=HTTP_PORT.of(found))


PROBE_HTTP = Key(
    "http", Kind("a URL path, or a map of path and port", _read_http), None, "GET this path: 2xx and 3xx are good"
)
PROBE_TCP = Key("tcp", whole(1, 65535), None, "connect to this port")
PROBE_EXEC = Key("exec", command, None, "run this inside the container: exit code 0 is good")
PROBE_INTERVAL = Key("interval_seconds", seconds(0.1, 3600), 10.0, "from one check to the next")
PROBE_TIMEOUT = Key("timeout_seconds", seconds(0.1, 300), 3.0, "no answer by then is a failure")
PROBE_FAILURES = Key("failures", whole(1, 1000), 3, "this many in a row count")
PROBE_SUCCESSES = Key("successes", whole(1, 100), 1, "this many in a row make it good again")
PROBE = Section(
    "probe",
    (PROBE_HTTP, PROBE_TCP, PROBE_EXEC, PROBE_INTERVAL, PROBE_TIMEOUT, PROBE_FAILURES, PROBE_SUCCESSES),
    "A check made by the node's agent, never by the image. Exactly one of `http`, `tcp` and `exec`.",
)


def _read_probe(spot: Spot) -> Probe | None:
    found = PROBE.read(spot)
    if found is None:
        return None
    ways = [key for key in (PROBE_HTTP, PROBE_TCP, PROBE_EXEC) if found.has(key)]
    if len(ways) != 1:
        given = " and ".join(key.name for key in ways) or "none of them"
        spot.refuse(
            "a probe has exactly one way to check", code="conflict", allowed="one of http, tcp, exec", found=given
        )
        return None
    http, tcp, words = PROBE_HTTP.of(found), PROBE_TCP.of(found), PROBE_EXEC.of(found)
    if words is not None and not words:
        found.where(PROBE_EXEC).refuse("the command is empty", allowed=command.allowed)
        return None
    if http is not None:
        probe = http
    elif tcp is not None:
        probe = Probe(ProbeKind.TCP, port=tcp)
    elif words is not None:
        probe = Probe(ProbeKind.EXEC, command=words)
    else:
        return None
    return replace(
        probe,
        interval_seconds=PROBE_INTERVAL.of(found),
        timeout_seconds=PROBE_TIMEOUT.of(found),
        failures=PROBE_FAILURES.of(found),
        successes=PROBE_SUCCESSES.of(found),
    )


probe: Kind[Probe] = Kind("a map with one of http, tcp, exec", _read_probe)

OPTION_INTERVAL = Key("interval", whole(1, 3600, "seconds"), 10, "from one check to the next")
OPTION_TIMEOUT = Key("timeout", whole(1, 300, "seconds"), 3, "no answer by then is a failure")
OPTION_RETRIES = Key("retries", whole(1, 1000), 3, "failures in a row that count")
HEALTH_OPTIONS = Section("options", (OPTION_INTERVAL, OPTION_TIMEOUT, OPTION_RETRIES))


def _read_check_command(spot: Spot) -> tuple[str, ...] | None:
    if spot.node.shape is Shape.LIST:
        return command.read(spot)
    line = raw_text(spot, allowed=check_command.allowed, booleans=True)
    if line is None:
        return None
    if line == "none":
        return ()
    return ("/bin/sh", "-c", line)


check_command: Kind[tuple[str, ...]] = Kind("a shell command line, a list of words, or `none`", _read_check_command)
HEALTH_CMD = Key(
    "cmd", check_command, (), "run inside the container: exit code 0 is good; `none`: no check", required=True
)
HEALTH_OPTIONS_KEY = Key("options", Kind("a map", HEALTH_OPTIONS.read), None, "interval, timeout (seconds), retries")
CONTAINER_HEALTHCHECK = Section(
    "container_healthcheck", (HEALTH_CMD, HEALTH_OPTIONS_KEY), "The older form of a `readiness` probe."
)


def _read_healthcheck(spot: Spot) -> ContainerHealthcheck | None:
    found = CONTAINER_HEALTHCHECK.read(spot)
    if found is None:
        return None
    words = HEALTH_CMD.of(found) or None
    options = HEALTH_OPTIONS_KEY.of(found)
    if options is None:
        return ContainerHealthcheck(words)
    return ContainerHealthcheck(
        words, OPTION_INTERVAL.of(options), OPTION_TIMEOUT.of(options), OPTION_RETRIES.of(options)
    )


container_healthcheck: Kind[ContainerHealthcheck] = Kind("a map of cmd and options", _read_healthcheck)

PROXY_READ_TIMEOUT = Key(
    "read_timeout_seconds", whole(1, 86400, "seconds"), None, "how long the app may be silent", shown="900"
)
PROXY_MAX_BODY = Key("max_body", size(1 * MIB), None, "largest request body", shown="unlimited")
PROXY_BUFFERING = Key("buffering", boolean, None, "false: bytes pass as they come", shown="the router's")
PROXY_STICKY = Key("sticky", boolean, None, "a client keeps to one instance while it is there", shown="false")
PROXY = Section(
    "proxy",
    (PROXY_READ_TIMEOUT, PROXY_MAX_BODY, PROXY_BUFFERING, PROXY_STICKY),
    "What the routers do differently for this proc.",
)


def _read_proxy(spot: Spot) -> ProxyOptions | None:
    found = PROXY.read(spot)
    if found is None:
        return None
    return ProxyOptions(
        read_timeout_seconds=PROXY_READ_TIMEOUT.of(found),
        max_body_bytes=PROXY_MAX_BODY.of(found),
        buffering=PROXY_BUFFERING.of(found),
        sticky=PROXY_STICKY.of(found),
    )


proxy: Kind[ProxyOptions] = Kind("a map", _read_proxy)
