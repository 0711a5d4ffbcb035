"""The images of LAIN's own parts: what each is made of, and which of them an Engine has.

Every image stands on one base, so that one ``docker save`` of all is that base and thin layers. ``image_builds`` makes them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from lain_cli.local.docker import CommandFailed, Docker

VERSION = version("lain-cli")
OWN_BASE = "lain/python:3.11"
"""The base made from the host's own packages; it also serves as ``base:`` of Python apps where no hub is reachable."""
BUILD_TIMEOUT_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Image:
    """One image. ``sources``: paths in the repository whose change means a new build; ``wheels``: our distributions it installs."""

    name: str
    dockerfile: str
    sources: tuple[str, ...] = ()
    wheels: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    on_runtime: bool = False

    @property
    def tag(self) -> str:
        return f"lain/{self.name}:{VERSION}"


RUNTIME = Image("runtime", "deploy/images/runtime/Dockerfile", ("deploy/images/runtime", "deploy/images/health.py"))
PLATFORM: tuple[Image, ...] = (
    Image(
        "etcd", "deploy/images/etcd/Dockerfile", ("deploy/images/health.py",), packages=("etcd-server", "etcd-client")
    ),
    Image(
        "registry",
        "deploy/images/registry/Dockerfile",
        ("deploy/images/registry", "deploy/images/health.py"),
        packages=("docker-registry",),
    ),
    Image(
        "nginx",
        "deploy/images/nginx/Dockerfile",
        ("deploy/nginx", "deploy/images/health.py"),
        packages=(
            "nginx",
            "libnginx-mod-http-lua",
            "lua-cjson",
        ),
    ),
    Image(
        "console",
        "services/console/Dockerfile",
        ("services/console", "sdk", "shared"),
        ("shared", "sdk", "services/console"),
        on_runtime=True,
    ),
    Image(
        "deployd",
        "services/deployd/Dockerfile",
        ("services/deployd", "shared"),
        ("shared", "services/deployd"),
        packages=("nftables", "iproute2"),
        on_runtime=True,
    ),
    Image(
        "watcher",
        "services/watcher/Dockerfile",
        ("services/watcher", "shared"),
        ("shared", "services/watcher"),
        on_runtime=True,
    ),
    Image(
        "tools", "deploy/images/tools/Dockerfile", ("cli", "sdk", "shared"), ("shared", "sdk", "cli"), on_runtime=True
    ),
)
"""What runs on a node. Loaded into each."""
TOOLS = PLATFORM[-1]
NODE = Image(
    "node",
    "deploy/images/node/Dockerfile",
    ("deploy/images/node",),
    packages=(
        "docker.io",
        "containerd",
        "runc",
        "iptables",
        "iproute2",
        "nftables",
        "procps",
        "runit",
        "tini",
        "ca-certificates",
        "e2fsprogs",
    ),
)
"""The machine itself; it runs on the outer Engine only."""
ALL: tuple[Image, ...] = (RUNTIME, *PLATFORM, NODE)


def source_root() -> Path | None:
    """The repository this code is installed from (editable), or None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "deploy" / "images").is_dir() else None


def missing(docker: Docker, images: Iterable[Image] = ALL) -> tuple[str, ...]:
    """Tags that are not on this Engine."""
    wanted = [image.tag for image in images]
    have = {tag for found in docker.json("image", "inspect", *wanted) for tag in found.get("RepoTags") or ()}
    return tuple(tag for tag in wanted if tag not in have)


def save_and_load(docker: Docker, node: Docker, tags: Iterable[str]) -> None:
    """Copy images from one Engine into a node's, as one stream: shared layers travel once."""
    wanted = list(tags)
    if not wanted:
        return
    with subprocess.Popen(docker.argv("save", *wanted), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saving:
        loading = subprocess.run(
            node.argv("load", "-q"),
            stdin=saving.stdout,
            capture_output=True,
            check=False,
            timeout=BUILD_TIMEOUT_SECONDS,
        )
        if saving.stdout is not None:
            saving.stdout.close()  # one that is not read to its end would wait for that for ever
        error = saving.stderr.read() if saving.stderr is not None else b""
    if saving.returncode or loading.returncode:
        lines = (error + loading.stderr).decode(errors="replace").strip().splitlines()[-10:]
        raise CommandFailed("images could not be copied into the node", evidence={"output": lines})
