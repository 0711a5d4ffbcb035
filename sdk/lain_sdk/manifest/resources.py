"""Resources: a template app, the parameters it takes, and the private instance that a client gets from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from lain_sdk.manifest.document import read_tree
from lain_sdk.manifest.faults import Faults
from lain_sdk.manifest.model import Manifest
from lain_sdk.manifest.names import validate_appname
from lain_sdk.manifest.parts import AppType
from lain_sdk.manifest.templates import Parameter, parameters_of


def instance_name(resource: str, client: str) -> str:
    """The app that a client's instance of a resource is: ``resource.<resource>.<client>``."""
    return f"resource.{resource}.{client}"


def render_resource(
    resource: Manifest, parameters: Mapping[str, Parameter], client: str, *, meta_version: str = ""
) -> Manifest:
    """The instance of ``resource`` for the app ``client``; ``ManifestInvalid`` with every fault, at its place in the resource's text.

    A parameter that no template names is a fault, and so is a template whose parameter is not given and has no default. With
    ``meta_version`` (the resource's current version) procs without an ``image`` run the resource app's release image.
    """
    validate_appname(client)
    faults = Faults(resource.file)
    instance: Manifest | None = None
    if resource.tree is None or resource.declared_type is not AppType.RESOURCE:
        faults.add(0, 0, ("apptype",), "conflict", f"{resource.appname} is no resource", allowed="apptype: resource")
    else:
        known = parameters_of(resource.tree)
        for name in sorted(set(parameters) - known):
            faults.add(
                0, 0, ("use_resources", resource.appname, name), "unknown_key", f"{resource.appname} has no parameter {name}",
                allowed=", ".join(sorted(known)) or "none", nearest=faults.nearest(name, known),
            )  # fmt: skip
        name = instance_name(resource.appname, client)
        instance = read_tree(resource.tree, faults, parameters=dict(parameters), appname=name)
    faults.raise_if_any()
    assert instance is not None  # noqa: S101 - no instance and no fault cannot be
    if not meta_version:
        return instance
    own = f"{resource.appname}:release-{meta_version}"
    procs = {name: proc if proc.image else replace(proc, image=own) for name, proc in instance.procs.items()}
    return replace(instance, procs=MappingProxyType(procs))


def resource_parameters(resource: Manifest) -> tuple[str, ...]:
    """The parameters that a resource's templates name, sorted."""
    return () if resource.tree is None else tuple(sorted(parameters_of(resource.tree)))
