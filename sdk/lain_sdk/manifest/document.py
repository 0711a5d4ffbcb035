"""A whole document: its top-level keys, the rules between sections, and ``load``, which answers a ``Manifest`` or every fault at once."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from lain_sdk.manifest import build_keys, proc_keys, procs, routes
from lain_sdk.manifest.faults import Faults
from lain_sdk.manifest.model import Manifest
from lain_sdk.manifest.names import MAX_APPNAME, NAME_ALLOWED, RESERVED, appname_problem
from lain_sdk.manifest.parts import AppType, Proc, ResourceUse
from lain_sdk.manifest.reading import Found, Key, Kind, Section, Spot
from lain_sdk.manifest.source import Node, Shape, parse
from lain_sdk.manifest.templates import Parameter, Renderer
from lain_sdk.manifest.values import checked, image, list_of, name, one_of, raw_text, text
from lain_shared.model.pod import ProcType

K = TypeVar("K")


def _as_is(spot: Spot) -> Spot:
    return spot


_NAME_ALLOWED = f"{NAME_ALLOWED}, at most {MAX_APPNAME} characters, and none of {', '.join(RESERVED)}"
_SECTION: Kind[Spot] = Kind("a map", _as_is)


def _fix_appname(given: str) -> str:
    better = given.lower().replace("_", "-").rstrip("-")
    return f"write {better}" if not appname_problem(better) else ""


def _read_appname(spot: Spot) -> str | None:
    """A text; whether dots are taken is known only to ``load``."""
    return raw_text(spot, allowed=_NAME_ALLOWED)


def _read_services(spot: Spot) -> dict[str, tuple[str, ...]] | None:
    if spot.node.shape is not Shape.MAP:
        spot.refuse("a map is wanted", code="wrong_type", allowed=use_services.allowed)
        return None
    return {app: services for app, _, services in _consumed(spot)}


def _consumed(spot: Spot) -> list[tuple[str, Spot, tuple[str, ...]]]:
    found: list[tuple[str, Spot, tuple[str, ...]]] = []
    for at_key, at_value in spot.entries():
        app = checked(_NAME_ALLOWED, appname_problem).read(at_key)
        services = _service_names.read(at_value)
        if app is not None and services is not None:
            found.append((app, at_value, services))
    return found


_service_names = list_of(name, least=1, most=100)
use_services: Kind[dict[str, tuple[str, ...]]] = Kind("a map: app → list of its service names", _read_services)


def _read_resources(spot: Spot) -> dict[str, ResourceUse] | None:
    if spot.node.shape is not Shape.MAP:
        spot.refuse("a map is wanted", code="wrong_type", allowed=use_resources.allowed)
        return None
    uses: dict[str, ResourceUse] = {}
    for at_key, at_value in spot.entries():
        app = checked(_NAME_ALLOWED, appname_problem).read(at_key)
        use = _read_resource(at_value)
        if app is not None and use is not None:
            uses[app] = use
    return uses


def _read_resource(spot: Spot) -> ResourceUse | None:
    if spot.node.shape is not Shape.MAP:
        spot.refuse("a map is wanted", code="wrong_type", allowed=use_resources.allowed)
        return None
    services: tuple[str, ...] | None = None
    parameters: dict[str, str] = {}
    for at_key, at_value in spot.entries():
        if at_key.node.text == "services":
            services = _service_names.read(at_value) or ()
            continue
        value = raw_text(at_value, allowed="a text, number or boolean", numbers=True, booleans=True)
        if value is not None:
            parameters[at_key.node.text] = value
    if services is None:
        spot.under("services", spot.node).refuse(
            "services is missing",
            code="missing_key",
            found="nothing",
            allowed=_service_names.allowed,
            fix="add services: [NAME]",
        )
        return None
    return ResourceUse(services, MappingProxyType(parameters))


use_resources: Kind[dict[str, ResourceUse]] = Kind("a map: resource app → {services: […], parameters}", _read_resources)

SLACK = Key("slack", text("a channel"), "", "a Slack channel", shown="none")
BEARYCHAT = Key("bearychat", text("a channel"), "", "a BearyChat channel", shown="none")
NOTIFY = Section("notify", (SLACK, BEARYCHAT), "Who is told.")


def _read_notify(spot: Spot) -> dict[str, str] | None:
    found = NOTIFY.read(spot)
    return None if found is None else dict(found.values)


APPNAME = Key("appname", Kind(_NAME_ALLOWED, _read_appname), "", "the app's name, unique in the cluster", required=True)
GITURL = Key("giturl", text("a URL of a git repository"), "", "binds the app to one repository", shown="none")
APPTYPE = Key("apptype", one_of("app", "resource"), "app", "`resource`: a template that never runs itself")
IMAGE = Key("image", image(host=True), "", "runs this ready-made image; instead of `build`", shown="none")
BUILD = Key("build", _SECTION, None, "how the build image is made; needed unless there is an `image`", shown="none")
RELEASE = Key("release", _SECTION, None, "how the release image is made", shown="the build image is the release image")
TEST = Key("test", _SECTION, None, "what `lain test` runs", shown="none")
USE_SERVICES = Key("use_services", use_services, None, "shared services of other apps", shown="none")
USE_RESOURCES = Key(
    "use_resources", use_resources, None, "private service instances made from resource apps", shown="none"
)
NOTIFY_KEY = Key("notify", Kind("a map of slack, bearychat", _read_notify), None, "who is told", shown="none")
_PROC_KEY_NAMES = tuple(key.name for key in proc_keys.COMMON)
_ELSEWHERE = dict.fromkeys(_PROC_KEY_NAMES, "a proc section (web, worker, …)") | dict.fromkeys(
    build_keys.BUILD.names(), "build"
)


class _TopSection(Section):
    """The document. Unknown keys are guessed among the proc sections too."""

    __slots__ = ()

    def unknown(self, at_key: Spot) -> None:
        written = at_key.node.text
        head, dot, rest = written.partition(".")
        known = procs.SECTIONS if dot else (*self.names(), *procs.TYPED)
        near = at_key.faults.nearest(head, known)
        fix = (
            f"{written} is a key of {self.elsewhere[written]}: move it there"
            if not near and written in self.elsewhere
            else ""
        )
        at_key.refuse(
            "a manifest has no such key",
            code="unknown_key",
            allowed=f"{', '.join(self.names())}, and procs: web, worker, oneshot, web.X, worker.X, oneshot.X, proc.X, portal.X, service.X",
            nearest=near + dot + rest if near else "",
            fix=fix,
        )


TOP = _TopSection(
    "the manifest",
    (APPNAME, GITURL, APPTYPE, IMAGE, BUILD, RELEASE, TEST, USE_SERVICES, USE_RESOURCES, NOTIFY_KEY),
    "",
    _ELSEWHERE,
)


def load(text: str | bytes, *, file: str = "lain.yaml", instance: bool = False) -> Manifest:
    """The manifest that ``text`` says; ``ManifestInvalid`` with every fault if it has any.

    ``file`` names the text in faults. ``instance``: the name of a resource instance (``resource.<app>.<client>``) is taken. A resource
    is checked as rendered with its parameters' defaults. Any text at all is judged in less than a second.
    """
    faults = Faults(file)
    tree = parse(text, faults)
    manifest = None
    if tree is not None:
        manifest = read_tree(tree, faults, instance=instance)
    elif not faults:
        faults.add(
            1, 1, (), "missing_key", "the manifest is empty", found="nothing", fix="start with appname: and build:"
        )
    faults.raise_if_any()
    assert manifest is not None  # noqa: S101 - no tree and no fault cannot be
    written = text if isinstance(text, str) else text.decode("utf-8")
    return replace(manifest, text=written)


def read_tree(
    tree: Node,
    faults: Faults,
    *,
    instance: bool = False,
    parameters: dict[str, Parameter] | None = None,
    appname: str = "",
) -> Manifest | None:
    """The manifest in ``tree``; None only with faults. With ``parameters`` a resource becomes the instance called ``appname``."""
    if tree.shape is not Shape.MAP:
        if tree.is_null:
            faults.add(
                1, 1, (), "missing_key", "the manifest is empty", found="nothing", fix="start with appname: and build:"
            )
        else:
            Spot(tree, (), faults).refuse(
                "a manifest is a map", code="wrong_type", allowed="keys and values, e.g. appname: hello"
            )
        return None
    rendered = tree
    if parameters is not None or _declares_resource(tree):
        rendered = Renderer(parameters or {}, faults, strict=parameters is not None).render(tree)
    root = Spot(rendered, (), faults)
    plain = tuple(entry for entry in rendered.entries if not procs.is_proc_key(entry[0].text))
    found = TOP.read(Spot(replace(rendered, entries=plain), (), faults))
    if found is None:
        return None
    appname = appname or _appname(found, instance)
    declared = AppType(APPTYPE.of(found)) if parameters is None else AppType.APP
    manifest = Manifest(
        appname=appname,
        procs=MappingProxyType(_procs(root, appname)),
        declared_type=declared,
        giturl=GITURL.of(found),
        image=IMAGE.of(found),
        use_services=MappingProxyType(USE_SERVICES.of(found) or {}),
        use_resources=MappingProxyType(USE_RESOURCES.of(found) or {}),
        notify=MappingProxyType(NOTIFY_KEY.of(found) or {}),
        file=faults.file,
        tree=tree,
    )
    manifest = _images(manifest, found)
    _consumption(manifest, found)
    return manifest


def _declares_resource(tree: Node) -> bool:
    return any(key.text == "apptype" and value.text == "resource" for key, value in tree.entries)


def _appname(found: Found, instance: bool) -> str:
    appname = APPNAME.of(found)
    if APPNAME.name in found.values and (problem := appname_problem(appname, instance=instance)):
        found.where(APPNAME).refuse(
            f"this is no name for an app: {problem}", allowed=_NAME_ALLOWED, fix=_fix_appname(appname)
        )
    return appname


def _images(manifest: Manifest, found: Found) -> Manifest:
    """``build`` (with ``release`` and ``test``), or ``image`` alone."""
    if found.has(IMAGE):
        for key in (BUILD, RELEASE, TEST):
            if found.has(key):
                found.where(key).refuse(
                    f"{key.name} does not go with image: nothing is built",
                    code="conflict",
                    found=key.name,
                    fix="remove one",
                )
        return manifest
    at_build = BUILD.of(found)
    if at_build is None:
        found.spot.under("build", found.spot.node).refuse(
            "build is missing",
            code="missing_key",
            found="nothing",
            allowed="build: {base: …}, or image: …",
            fix="add build: {base: an image}",
        )
    build = None if at_build is None else build_keys.read_build(at_build)
    at_release, at_test = RELEASE.of(found), TEST.of(found)
    return replace(
        manifest,
        build=build,
        release=None if at_release is None else build_keys.read_release(at_release, build),
        test=None if at_test is None else build_keys.read_test(at_test),
    )


def _consumption(manifest: Manifest, found: Found) -> None:
    """Service names are known by themselves inside an app, so no two consumed ones may be the same."""
    if manifest.declared_type is AppType.RESOURCE and manifest.use_resources:
        found.where(USE_RESOURCES).refuse(
            "a resource may use services, not resources", code="conflict", fix="remove use_resources"
        )
    givers: dict[str, str] = {}
    used: list[tuple[str, tuple[str, ...], Key[Any, Any]]] = [
        (app, services, USE_SERVICES) for app, services in manifest.use_services.items()
    ]
    used += [(app, use.services, USE_RESOURCES) for app, use in manifest.use_resources.items()]
    for app, services, key in used:
        for service in services:
            if service in givers:
                found.where(key).refuse(
                    f"service name {service} is used twice", code="conflict", found=f"from {givers[service]} and from {app}",
                    fix="use one of them: there is no alias",
                )  # fmt: skip
            givers.setdefault(service, app)


def _procs(root: Spot, appname: str) -> dict[str, Proc]:
    """All procs by name, and the rules between them."""
    found: dict[str, Proc] = {}
    streams: dict[tuple[int, str], str] = {}
    places: dict[tuple[str, str], str] = {}
    services: dict[str, str] = {}
    for at_key, at_value in root.entries():
        if not procs.is_proc_key(at_key.node.text):
            continue
        if len(found) >= procs.MAX_PROCS:
            at_key.refuse("too many procs", code="too_big", allowed=f"at most {procs.MAX_PROCS}")
            break
        for proc in procs.read_procs(at_key, at_value, appname):
            if proc.name in found:
                first = found[proc.name]
                at_key.refuse(
                    f"there are two procs called {proc.name}", code="conflict", found=f"also from {first.section}, line {first.line}",
                    fix="give one another name",
                )  # fmt: skip
                continue
            found[proc.name] = proc
            for stream in proc.stream_ports:
                _once(
                    at_key, streams, (stream.source, stream.proto), proc, f"cluster port {stream.source}/{stream.proto}"
                )
            for place in dict.fromkeys(routes.normal(written) for written in proc.mountpoint):
                _once(at_key, places, place, proc, f"mountpoint {place[0]}{place[1]}")
            if proc.type is ProcType.PORTAL and proc.service_name:
                _once(at_key, services, proc.service_name, proc, f"service {proc.service_name}")
    return found


def _once(at_key: Spot, owners: dict[K, str], what: K, proc: Proc, called: str) -> None:
    if what in owners:
        at_key.refuse(
            f"{called} is claimed twice",
            code="conflict",
            found=f"by {owners[what]} and by {proc.name}",
            fix="give it to one",
        )
    owners.setdefault(what, proc.name)
