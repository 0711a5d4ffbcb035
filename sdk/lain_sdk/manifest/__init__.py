"""``lain.yaml``: text in, one immutable model out, or every fault at once. What CLI, console and users' scripts import.

manifest = load(text)                                  # ManifestInvalid: .faults
manifest.procs["web"].memory_bytes
manifest.mountpoints("web", domains)                   # routes
manifest.desired(domains=…, images=…, release=…, env=…, meta_version=…)   # what the cluster should run
"""

from lain_sdk.manifest.backups import backups
from lain_sdk.manifest.document import load
from lain_sdk.manifest.dump import dump, to_document
from lain_sdk.manifest.faults import Fault, ManifestInvalid
from lain_sdk.manifest.model import Manifest
from lain_sdk.manifest.names import InvalidName, app_domain, normal_giturl, parse_image, validate_appname
from lain_sdk.manifest.needs import Need
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
from lain_sdk.manifest.resources import instance_name, render_resource, resource_parameters
from lain_sdk.manifest.routes import default_hosts
from lain_sdk.manifest.versions import (
    MetaVersion,
    Version,
    newest_deployable,
    parse_version,
    require_version,
    version_of_tag,
    versions,
)

__all__ = [
    "AppType", "Backup", "BackupPolicy", "Build", "CloudKind", "CloudVolumes", "ContainerHealthcheck", "CopyItem", "Fault", "InvalidName",
    "Manifest", "ManifestInvalid", "MetaVersion", "Need", "Port", "Prepare", "Proc", "ReleaseSection", "ResourceUse", "StreamPort",
    "TestSection", "Version", "VolumeDir", "app_domain", "backups", "default_hosts", "dump", "instance_name", "load", "newest_deployable",
    "normal_giturl", "parse_image", "parse_version", "render_resource", "require_version", "resource_parameters", "to_document",
    "validate_appname", "version_of_tag", "versions",
]  # fmt: skip
