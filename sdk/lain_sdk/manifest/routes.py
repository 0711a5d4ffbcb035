"""Mountpoints to routes: which hosts and paths lead to a web proc, once the cluster's domains are known."""

from __future__ import annotations

from collections.abc import Sequence

from lain_sdk.manifest.names import app_domain
from lain_sdk.manifest.parts import Proc
from lain_shared.model.pod import ProcType
from lain_shared.model.route import Route

INTERNAL_DOMAIN = "lain"


def default_hosts(appname: str, domains: Sequence[str]) -> tuple[str, ...]:
    """``<app domain>.<d>`` for each domain of the cluster (the main one first), then ``<app domain>.lain``."""
    label = app_domain(appname)
    return tuple(dict.fromkeys(f"{label}.{domain.lower()}" for domain in (*domains, INTERNAL_DOMAIN)))


def normal(mountpoint: str) -> tuple[str, str]:
    """Host (lower case; "" for every default host) and path (``/`` or ``/x/y``) of a mountpoint as written."""
    host, _, path = mountpoint.strip().partition("/")
    path = path.rstrip("/")
    return host.lower(), f"/{path}"


def expand(proc: Proc, appname: str, domains: Sequence[str]) -> tuple[Route, ...]:
    """The routes of a proc: the default hosts if it is ``web`` itself, then its mountpoints in order, each once."""
    if proc.type is not ProcType.WEB:
        return ()
    defaults = default_hosts(appname, domains)
    places: dict[tuple[str, str], None] = {}
    if proc.name == "web":
        places.update(dict.fromkeys((host, "/") for host in defaults))
    for written in proc.mountpoint:
        host, path = normal(written)
        if host:
            places[host, path] = None
        elif path != "/":
            places.update(dict.fromkeys((default, path) for default in defaults))
    return tuple(Route(host, path, proc.https_only) for host, path in places)
