"""Names: of apps, procs and services; an app's domain; image references; git URLs. Usable without a manifest."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lain_shared.errors import Invalid

MAX_APPNAME = 63
MAX_NAME = 50
"""Proc and service names: ``<name>-<instance>`` must stay a DNS label (63)."""
RESERVED = ("service", "resource", "portal")
NAME = re.compile(r"[a-z](?:[a-z0-9]|-(?=[a-z0-9]))*\Z")
NAME_ALLOWED = "a lower-case letter, then letters, digits and single inner hyphens"

_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_IMAGE = re.compile(
    r"(?P<name>(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?\Z"
)


class InvalidName(Invalid):
    """A name breaks the rules of names."""

    code = "invalid_name"


def name_problem(name: str, *, most: int = MAX_NAME) -> str:
    """Why ``name`` is no good as the name of a proc or service; "" when it is good."""
    if not name:
        return "it is empty"
    if len(name) > most:
        return f"it is longer than {most} characters"
    if NAME.match(name):
        return ""
    if name != name.lower() and NAME.match(name.lower()):
        return "it has upper-case letters"
    if not ("a" <= name[0].lower() <= "z"):
        return "it does not start with a letter"
    if "--" in name:
        return "it has two hyphens in a row"
    if name.endswith("-"):
        return "it ends with a hyphen"
    wrong = next((char for char in name.lower() if not re.match(r"[a-z0-9-]", char)), "")
    return f"it has {wrong!r} in it"


def appname_problem(appname: str, *, instance: bool = False) -> str:
    """Why ``appname`` is no good; "" when it is good. ``instance``: ``resource.<resource app>.<client>`` is good too."""
    if instance and appname.startswith("resource."):
        labels = appname.split(".")
        if len(labels) != 3:
            return "an instance is named resource.<resource app>.<client app>"
        return next((problem for label in labels[1:] if (problem := appname_problem(label))), "")
    if appname in RESERVED:
        return "it is reserved"
    return name_problem(appname, most=MAX_APPNAME)


def validate_appname(appname: str, *, instance: bool = False) -> str:
    """``appname`` itself, or ``InvalidName`` that says why not."""
    if problem := appname_problem(appname, instance=instance):
        raise InvalidName(
            f"{appname!r} is no name for an app",
            why=problem,
            next=f"choose a name of {NAME_ALLOWED}, at most {MAX_APPNAME} characters, and none of {', '.join(RESERVED)}",
            evidence={"found": appname, "allowed": NAME.pattern},
        )
    return appname


def app_domain(appname: str) -> str:
    """The labels of the name reversed: ``hello`` → ``hello``, ``resource.redis.hello`` → ``hello.redis.resource``."""
    return ".".join(reversed(appname.split(".")))


def host_problem(host: str) -> str:
    """Why ``host`` is no host name (RFC 1123, a leading ``*.`` allowed); "" when it is one."""
    bare = host.lower().removeprefix("*.")
    if len(bare) > 253:
        return "the host is longer than 253 characters"
    if ":" in bare:
        return "a host has no port here: the router's ports serve all hosts"
    bad = next((label for label in bare.split(".") if not _HOST_LABEL.match(label)), None)
    if bad is not None:
        return f"{bad!r} is no part of a host name" if bad else "a part of the host is empty"
    return ""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """``[host/]repository[:tag][@digest]`` taken apart."""

    host: str
    repository: str
    tag: str
    digest: str


def parse_image(reference: str) -> ImageReference | None:
    """The parts of an image reference, or None when it is none. The host is told by a dot, a colon or ``localhost``, as Docker does."""
    if len(reference) > 512 or not (found := _IMAGE.match(reference)):
        return None
    first, slash, rest = found["name"].partition("/")
    is_host = bool(slash) and ("." in first or ":" in first or first == "localhost")
    if not is_host and first != first.lower():
        return None
    host, repository = (first, rest) if is_host else ("", found["name"])
    return ImageReference(host, repository, found["tag"] or "", found["digest"] or "")


def normal_giturl(url: str) -> str:
    """One spelling for one repository: without ``.git`` and a last slash, with a scheme (``http://`` when none is given)."""
    plain = url.strip().rstrip("/").removesuffix(".git")
    if "://" in plain or not plain:
        return plain
    if found := re.match(r"(?P<user>[A-Za-z0-9_.-]+@)(?P<host>[A-Za-z0-9_.-]+):(?P<path>.+)\Z", plain):
        return f"ssh://{found['user']}{found['host']}/{found['path'].lstrip('/')}"
    return "http://" + plain
