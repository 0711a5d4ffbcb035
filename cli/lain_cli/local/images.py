"""The images of LAIN's own parts: what each is made of, and making those whose inputs changed.

Every image stands on one base, so that one ``docker save`` of all is that base and thin layers. No build uses the network: Python
packages come from a wheelhouse, Debian packages from a folder of ``.deb`` files, both filled beforehand on this machine. Only where
the base is a public image (``LAIN_BASE``, or no Debian host to make one from) do Debian packages come by apt inside the build.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from lain_cli.local.docker import CommandFailed, Docker, run
from lain_shared.errors import Invalid, Unavailable

VERSION = version("lain-cli")
PUBLIC_BASE = "python:3.11-slim-bookworm"
OWN_BASE = "lain/python:3.11"
"""The base made from the host's own packages; it also serves as ``base:`` of Python apps where no hub is reachable."""
INPUTS_LABEL = "lain.inputs"
PYTHON_VERSION = "3.11"
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

Say = Callable[[str], None]


def source_root() -> Path | None:
    """The repository this code is installed from (editable), or None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "deploy" / "images").is_dir() else None


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
    _wheels: dict[str, Path] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.root / "build"

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
        tar = cache_dir() / f"base-{_release()}-{platform.machine()}.tar"
        if not tar.exists():
            self.say("making the base image from this machine's Debian packages (about a minute, once)")
            tar.parent.mkdir(parents=True, exist_ok=True)
            run([str(self.root / "deploy/images/base/make"), str(tar)], timeout_seconds=BUILD_TIMEOUT_SECONDS)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
        self.docker.run(
            "import",
            "-c",
            'CMD ["python3"]',
            "-c",
            f"ENV {path}",
            str(tar),
            OWN_BASE,
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )

    # --- one build ----------------------------------------------------------------------------------------------------

    def _build(self, image: Image, base: str, inputs: str) -> None:
        context = self.work / "context" / image.name
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
                self._debs(image.packages, context / "debs")
        if image is RUNTIME or image.wheels:
            _link(self._pip_wheel(), context / "pip")
        if image is RUNTIME:
            for wheel in self._wheelhouse():
                _link(wheel, context / "wheelhouse")
        for distribution in image.wheels:
            _link(self._wheel(distribution), context / "wheels")
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

    def _debs(self, packages: tuple[str, ...], into: Path) -> None:
        """The ``.deb`` files that ``packages`` need on top of the base, by the host's own apt; kept in the cache."""
        status = cache_dir() / f"base-{_release()}-{platform.machine()}.status"
        if not status.exists():
            status.write_text(
                self.docker.run("run", "--rm", "--network", "none", OWN_BASE, "cat", "/var/lib/dpkg/status")
            )
        archives = cache_dir() / "debs"
        (archives / "partial").mkdir(parents=True, exist_ok=True)
        options = (
            "-o",
            f"Dir::State::status={status}",
            "-o",
            f"Dir::Cache::archives={archives}",
            "-o",
            "APT::Install-Recommends=false",
            "-o",
            "Debug::NoLocking=1",
            "-o",
            "APT::Sandbox::User=root",
            "-o",
            "APT::Keep-Downloaded-Packages=true",
        )
        plan = run(["apt-get", "-s", *options, "install", *packages], timeout_seconds=60)
        names = [
            f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
            for name, version, architecture in re.findall(r"^Inst (\S+) \((\S+) .*\[(\w+)\]\)", plan, re.MULTILINE)
        ]
        if not all((archives / name).exists() for name in names):
            run(
                ["apt-get", "-qq", "-y", *options, "--download-only", "install", *packages],
                timeout_seconds=BUILD_TIMEOUT_SECONDS,
            )
        for name in names:
            _link(archives / name, into)

    def _wheelhouse(self) -> tuple[Path, ...]:
        """Every locked third-party wheel for the images' Python and this machine's architecture, downloaded once."""
        lock = self.root / "deploy/images/runtime.txt"
        stamp = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
        folder = cache_dir() / f"wheelhouse-{stamp}-{_machine()}"
        if not (folder / ".whole").exists():
            self.say("downloading the locked Python packages")
            shutil.rmtree(folder, ignore_errors=True)
            platforms = [f"manylinux_2_{minor}_{_machine()}" for minor in (36, 34, 28, 27, 17, 12, 5)] + [
                f"manylinux2014_{_machine()}"
            ]
            run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--disable-pip-version-check",
                    "--require-hashes",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--python-version",
                    PYTHON_VERSION,
                    "--implementation",
                    "cp",
                    *(f"--platform={name}" for name in platforms),
                    "-r",
                    str(lock),
                    "-d",
                    str(folder),
                ],
                timeout_seconds=BUILD_TIMEOUT_SECONDS,
            )
            (folder / ".whole").touch()
        return tuple(sorted(folder.glob("*.whl")))

    def _pip_wheel(self) -> Path:
        """pip itself as a wheel (it runs from the file), of the locked version, so that no image carries it."""
        locked = re.search(
            r"^pip==(\S+).*(?:\n +--hash=.*)+", (self.root / "constraints.txt").read_text(), re.MULTILINE
        )
        if locked is None:
            raise Invalid("constraints.txt does not pin pip", next="run `make lock`")
        wheel = cache_dir() / "pip" / f"pip-{locked[1]}-py3-none-any.whl"
        if not wheel.exists():
            lock = self.work / "pip.txt"
            lock.parent.mkdir(parents=True, exist_ok=True)
            lock.write_text(locked[0] + "\n")
            run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--disable-pip-version-check",
                    "--require-hashes",
                    "--no-deps",
                    "-r",
                    str(lock),
                    "-d",
                    str(wheel.parent),
                ],
                timeout_seconds=BUILD_TIMEOUT_SECONDS,
            )
        return wheel

    def _wheel(self, distribution: str) -> Path:
        """One of our own distributions as a wheel, built without the network by the installed build backend."""
        if distribution in self._wheels:
            return self._wheels[distribution]
        out = self.work / "wheels" / distribution.replace("/", "-")
        shutil.rmtree(out, ignore_errors=True)
        run(
            [
                sys.executable,
                "-m",
                "pip",
                "wheel",
                "-q",
                "--disable-pip-version-check",
                "--no-deps",
                "--no-build-isolation",
                "--no-index",
                "-w",
                str(out),
                str(self.root / distribution),
            ],
            timeout_seconds=BUILD_TIMEOUT_SECONDS,
        )
        self._wheels[distribution] = next(iter(out.glob("*.whl")))
        return self._wheels[distribution]


def can_make_base() -> bool:
    """Whether this machine can make the base from its own packages: root, Debian, mmdebstrap."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mmdebstrap") is not None and _release() != ""


def cache_dir() -> Path:
    """Where downloads are kept between builds (``LAIN_CACHE``, else the user's cache directory)."""
    base = os.environ.get("LAIN_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lain"


def _release() -> str:
    """Debian's code name, or an empty text elsewhere."""
    try:
        values = platform.freedesktop_os_release()
    except OSError:
        return ""
    return values.get("VERSION_CODENAME", "") if values.get("ID") == "debian" else ""


def _machine() -> str:
    return {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())


def _link(file: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, folder / file.name)
    except OSError:
        shutil.copy2(file, folder / file.name)


def missing(docker: Docker, images: Iterable[Image] = ALL) -> tuple[str, ...]:
    """Tags that are not on this Engine."""
    wanted = [image.tag for image in images]
    have = {tag for found in docker.json("image", "inspect", *wanted) for tag in found.get("RepoTags") or ()}
    return tuple(tag for tag in wanted if tag not in have)


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
        error = saving.stderr.read() if saving.stderr is not None else b""
    if saving.returncode or loading.returncode:
        lines = (error + loading.stderr).decode(errors="replace").strip().splitlines()[-10:]
        raise CommandFailed("images could not be copied into the node", evidence={"output": lines})


def main() -> None:
    """``python -m lain_cli.local.images``: what ``make images`` runs."""
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
