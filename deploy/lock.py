"""Writes the two locks: ``constraints.txt`` (everything, for `make install`) and ``deploy/images/runtime.txt`` (what the images need).

Both pin every package with hashes and name no index. The second is a subset of the first, version by version.
usage: python deploy/lock.py [--upgrade]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DISTRIBUTIONS = ("shared", "sdk", "cli", "services/console", "services/deployd", "services/watcher")
OWN = "lain-"


def third_party() -> list[str]:
    """Every direct dependency of our distributions that is not ours, sorted."""
    found: set[str] = set()
    for distribution in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]
        found |= {line for line in project["dependencies"] if not line.startswith(OWN)}
    return sorted(found)


def development() -> list[str]:
    """What building, linting and testing need on top."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"])


def compile_lock(lines: list[str], output: Path, *arguments: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(lines) + "\n")
        uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
        subprocess.run(
            [
                uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header",
                "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *arguments, "-o", str(output), str(source),
            ],
            check=True,
        )  # fmt: skip


def main() -> None:
    everything = ROOT / "constraints.txt"
    compile_lock(third_party() + development(), everything, *sys.argv[1:])
    compile_lock(third_party(), ROOT / "deploy/images/runtime.txt", "-c", str(everything), *sys.argv[1:])


if __name__ == "__main__":
    main()
