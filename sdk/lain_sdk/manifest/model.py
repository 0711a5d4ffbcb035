"""``Manifest``: a whole valid ``lain.yaml``, and the questions that CLI and console ask it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from lain_sdk.manifest.desired import desired, images, routes
from lain_sdk.manifest.needs import Need, needs
from lain_sdk.manifest.parts import (
    AppType,
    Backup,
    BackupPolicy,
    Build,
    CloudKind,
    CloudVolumes,
    ContainerHealthcheck,
    CopyItem,
    Port,
    Prepare,
    Proc,
    ReleaseSection,
    ResourceUse,
    StreamPort,
    TestSection,
    VolumeDir,
)
from lain_sdk.manifest.routes import expand
from lain_sdk.manifest.source import Node
from lain_shared.model.pod import Desired, ProcType
from lain_shared.model.route import Route

__all__ = [
    "AppType", "Backup", "BackupPolicy", "Build", "CloudKind", "CloudVolumes", "ContainerHealthcheck", "CopyItem", "Manifest", "Port",
    "Prepare", "Proc", "ReleaseSection", "ResourceUse", "StreamPort", "TestSection", "VolumeDir",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole valid manifest. Two manifests are equal when they say the same, however they are written."""

    appname: str
    procs: Mapping[str, Proc]
    declared_type: AppType = AppType.APP
    giturl: str = ""
    image: str = ""
    """The image-only form: any image reference; "" when LAIN builds one."""
    build: Build | None = None
    release: ReleaseSection | None = None
    test: TestSection | None = None
    use_services: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    use_resources: Mapping[str, ResourceUse] = field(default_factory=lambda: MappingProxyType({}))
    notify: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    file: str = field(default="lain.yaml", compare=False)
    text: str = field(default="", compare=False, repr=False)
    tree: Node | None = field(default=None, compare=False, repr=False)
    """The document as read, templates unrendered."""

    @property
    def apptype(self) -> AppType:
        """What the app is in effect, as the console keeps it."""
        if self.declared_type is AppType.RESOURCE:
            return AppType.RESOURCE
        if self.appname.startswith("resource."):
            return AppType.RESOURCE_INSTANCE
        if any(proc.type is ProcType.PORTAL for proc in self.procs.values()):
            return AppType.SERVICE
        return AppType.APP

    def mountpoints(self, proc: str, domains: Sequence[str]) -> tuple[Route, ...]:
        """The routes of one proc (``KeyError`` if there is none); () unless it is a web proc. ``domains``: the main one first."""
        return expand(self.procs[proc], self.appname, domains)

    def routes(self, domains: Sequence[str]) -> Mapping[str, tuple[Route, ...]]:
        """Web proc → its routes; ``ManifestInvalid`` when two procs claim one host and path."""
        return routes(self, domains)

    def images(self, meta_version: str) -> Mapping[str, str]:
        """Proc → ``repository:tag`` in the cluster's registry, to be resolved to digests for ``desired``."""
        return images(self, meta_version)

    def needs(self, available: Collection[str] = ()) -> tuple[Need, ...]:
        """The parts of LAIN that the manifest needs and the cluster (``available``) lacks."""
        return needs(self, available)

    def desired(
        self,
        *,
        domains: Sequence[str],
        images: Mapping[str, str],
        release: int,
        env: Mapping[str, str],
        meta_version: str,
        timezone: str = "UTC",
    ) -> tuple[Desired, ...]:
        """What should run, one for each proc, without operators' overrides. ``images``: proc → ``repository@sha256:…``.

        ``env`` (``lain env``) wins over the manifest's. ``ManifestInvalid`` when two procs claim one host and path.
        """
        return desired(
            self, domains=domains, images=images, release=release, env=env, meta_version=meta_version, timezone=timezone
        )
