"""What image builds are supplied with, so that they use no network: the base, ``.deb`` files, wheels. Fetched once, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lain_cli.local.docker import Docker, run
from lain_cli.local.images import BUILD_TIMEOUT_SECONDS, OWN_BASE
from lain_shared.errors import Invalid

PYTHON_VERSION = "3.11"

Say = Callable[[str], None]


@dataclass(slots=True)
class Supplies:
    """What builds from the source tree at ``root`` need. ``say`` hears one line per step that takes time."""

    root: Path
    say: Say
    _wheels: dict[str, Path] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        """Where what is made from the sources lies."""
        return self.root / "build"

    def base(self) -> Path:
        """The base image's file system as a tar, made from this host's own Debian packages."""
        tar = _base_file("tar")
        if not tar.exists():
            self.say("making the base image from this machine's Debian packages (about a minute, once)")
            tar.parent.mkdir(parents=True, exist_ok=True)
            run([str(self.root / "deploy/images/base/make"), str(tar)], timeout_seconds=BUILD_TIMEOUT_SECONDS)
        return tar

    def debs(self, docker: Docker, packages: tuple[str, ...], into: Path) -> None:
        """The ``.deb`` files that ``packages`` need on top of the base, by the host's own apt; kept in the cache."""
        status = _base_file("status")
        if not status.exists():
            status.write_text(docker.run("run", "--rm", "--network", "none", OWN_BASE, "cat", "/var/lib/dpkg/status"))
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
            link(archives / name, into)

    def wheelhouse(self) -> tuple[Path, ...]:
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
            _pip(
                "download",
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
            )
            (folder / ".whole").touch()
        return tuple(sorted(folder.glob("*.whl")))

    def pip_wheel(self) -> Path:
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
            _pip("download", "--require-hashes", "--no-deps", "-r", str(lock), "-d", str(wheel.parent))
        return wheel

    def own_wheel(self, distribution: str) -> Path:
        """One of our own distributions as a wheel, built without the network by the installed build backend."""
        if distribution in self._wheels:
            return self._wheels[distribution]
        out = self.work / "wheels" / distribution.replace("/", "-")
        shutil.rmtree(out, ignore_errors=True)
        _pip(
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "-w",
            str(out),
            str(self.root / distribution),
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


def _base_file(ending: str) -> Path:
    return cache_dir() / f"base-{_release()}-{platform.machine()}.{ending}"


def _pip(command: str, *arguments: str) -> None:
    argv = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check", *arguments]
    run(argv, timeout_seconds=BUILD_TIMEOUT_SECONDS)


def link(file: Path, folder: Path) -> None:
    """Have ``file`` in ``folder`` too, as a hard link where that is possible."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, folder / file.name)
    except OSError:
        shutil.copy2(file, folder / file.name)
