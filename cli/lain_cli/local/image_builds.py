"""Making the images whose inputs changed, from a source tree, on one Engine.

No build uses the network: what it needs is fetched beforehand (``supplies``). Only where the base is a public image (``LAIN_BASE``, or no
Debian host to make one from) do Debian packages come by apt inside the build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lain_cli.local.docker import CommandFailed, Docker
from lain_cli.local.images import ALL, BUILD_TIMEOUT_SECONDS, OWN_BASE, RUNTIME, Image, missing, source_root
from lain_cli.local.supplies import Say, Supplies, can_make_base, link
from lain_shared.errors import Invalid, Unavailable

PUBLIC_BASE = "python:3.11-slim-bookworm"
INPUTS_LABEL = "lain.inputs"


def inputs_of(root: Path, image: Image, base_id: str) -> str:
    """A digest of everything that decides what ``image`` is: its files, the locked packages, its base. Pure but for reading files."""
    digest = hashlib.sha256()
    parts = {image.dockerfile, *image.sources, "deploy/images/install-packages", "deploy/images/runtime.txt"}
    for path in sorted({file for part in parts for file in _files(root / part)}):
        digest.update(f"{path.relative_to(root)}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    digest.update(json.dumps([base_id, image.tag, image.packages], sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return (path,)
    return (
        file
        for file in path.rglob("*")
        if file.is_file()
        and not {"__pycache__", ".mypy_cache", "build", "dist"} & set(file.parts)
        and file.suffix != ".pyc"
        and not any(part.endswith(".egg-info") for part in file.parts)
    )


@dataclass(slots=True)
class Builder:
    """Makes images from a source tree on one Engine. ``say`` hears one line per step that takes time."""

    root: Path
    docker: Docker
    say: Say
    supplies: Supplies = field(init=False)

    def __post_init__(self) -> None:
        self.supplies = Supplies(self.root, self.say)

    def build(self, images: Iterable[Image] = ALL) -> tuple[str, ...]:
        """Make every image whose inputs changed; returns the tags that were made. Nothing to do costs well under a second."""
        wanted = tuple(images)
        base, base_id = self.base()
        stale = self.stale(wanted, base_id)
        made: list[str] = []
        for image in wanted:
            if image.tag in stale:
                began = time.monotonic()
                self._build(image, base, stale[image.tag])
                self.say(f"built {image.tag} ({time.monotonic() - began:.0f} s)")
                made.append(image.tag)
        if made:  # what they replaced
            self.docker.run("image", "prune", "--force", "--filter", "label=lain.platform=true")
        return tuple(made)

    def stale(self, images: Iterable[Image], base_id: str) -> Mapping[str, str]:
        """Tag → inputs digest of every image that is missing or was made from other inputs."""
        wanted: dict[str, str] = {}
        runtime = inputs_of(self.root, RUNTIME, base_id)
        for image in images:
            wanted[image.tag] = inputs_of(self.root, image, runtime if image.on_runtime else base_id)
        have: dict[str, str] = {}
        for found in self.docker.json("image", "inspect", *wanted):
            for tag in found.get("RepoTags") or ():
                have[tag] = (found["Config"].get("Labels") or {}).get(INPUTS_LABEL, "")
        return {tag: inputs for tag, inputs in wanted.items() if have.get(tag) != inputs}

    def base(self) -> tuple[str, str]:
        """The base image's name and id: ``LAIN_BASE``, else made from this host's Debian packages, else the public one (pulled)."""
        name = os.environ.get("LAIN_BASE") or (OWN_BASE if can_make_base() else PUBLIC_BASE)
        found = self.docker.json("image", "inspect", name)
        if not found:
            if name == OWN_BASE:
                self._make_base()
            else:
                self._pull(name)
            found = self.docker.json("image", "inspect", name)
        if name != OWN_BASE:
            self.docker.run("tag", name, OWN_BASE)
        return name, str(found[0]["Id"])

    def _pull(self, name: str) -> None:
        self.say(f"pulling {name}")
        try:
            self.docker.run("pull", "-q", name, timeout_seconds=BUILD_TIMEOUT_SECONDS)
        except CommandFailed as error:
            raise Unavailable(
                f"the base image {name} cannot be pulled",
                evidence=error.evidence,
                next="as root on Debian, `apt-get install mmdebstrap` lets LAIN make one; or set LAIN_BASE to an image that is here",
                code="no_base_image",
            ) from error

    def _make_base(self) -> None:
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
        self.docker.run(
            "import",
            "-c",
            'CMD ["python3"]',
            "-c",
            f"ENV {path}",
            str(self.supplies.base()),
            OWN_BASE,
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )

    # --- one build ----------------------------------------------------------------------------------------------------

    def _build(self, image: Image, base: str, inputs: str) -> None:
        context = self.supplies.work / "context" / image.name
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        images = self.root / "deploy/images"
        for name in ("install-packages", "health.py", "runtime.txt"):
            shutil.copy2(images / name, context / name)
        for folder in (images / image.name, self.root / "deploy/nginx" if image.name == "nginx" else None):
            if folder is not None and folder.is_dir():
                shutil.copytree(
                    folder, context, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "Dockerfile")
                )
        offline = base == OWN_BASE
        if image.packages:
            (context / "debs").mkdir(exist_ok=True)
            if offline:
                self.supplies.debs(self.docker, image.packages, context / "debs")
        if image is RUNTIME or image.wheels:
            link(self.supplies.pip_wheel(), context / "pip")
        if image is RUNTIME:
            for wheel in self.supplies.wheelhouse():
                link(wheel, context / "wheelhouse")
        for distribution in image.wheels:
            link(self.supplies.own_wheel(distribution), context / "wheels")
        network = ("--network", "none") if offline or not image.packages else ()
        environ = dict(os.environ)
        if not self.docker.has_buildx():
            environ["DOCKER_BUILDKIT"] = "0"
        Docker(environ=environ).run(
            "build",
            "-q",
            "--force-rm",
            *network,
            "-f",
            str(self.root / image.dockerfile),
            "-t",
            image.tag,
            *(("--build-arg", f"RUNTIME={RUNTIME.tag}") if image.on_runtime else ("--build-arg", f"BASE={base}")),
            "--label",
            f"{INPUTS_LABEL}={inputs}",
            "--label",
            "lain.platform=true",
            str(context),
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )
        shutil.rmtree(context, ignore_errors=True)


def ensure(docker: Docker, say: Say, *, build: bool = True) -> tuple[str, ...]:
    """Every image, current: built from the source tree when there is one (and ``build``), else they must be there already."""
    root = source_root() if build else None
    if root is not None:
        return Builder(root, docker, say).build()
    if absent := missing(docker):
        raise Unavailable(
            "images of LAIN are missing on this Engine",
            evidence={"missing": list(absent)},
            next="run `lain local up` from a checkout of LAIN, or `docker load` the release's images",
            code="images_missing",
        )
    return ()


def main() -> None:
    """``python -m lain_cli.local.image_builds``: what ``make images`` runs."""
    root = source_root()
    if root is None:
        raise SystemExit("this is not a source tree of LAIN")
    try:
        made = Builder(root, Docker(), lambda line: print(line, flush=True)).build()
    except (CommandFailed, Invalid, Unavailable) as error:
        print(
            f"error: {error.message}\n{error.why}\n" + "\n".join(map(str, error.evidence.get("output", ()))),
            file=sys.stderr,
        )
        raise SystemExit(1) from error
    print(f"{len(made)} images built, {len(ALL) - len(made)} current")


if __name__ == "__main__":
    main()
