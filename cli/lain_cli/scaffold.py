"""A first ``lain.yaml`` from what lies in a repository (pure but for ``look``): what was found, what was concluded, the text."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LOOKED_AT = (
    "Dockerfile", "Procfile", "requirements.txt", "pyproject.toml", "package.json", "go.mod", "main.py", "app.py",
    "manage.py", "wsgi.py", "server.py", "serve.py", "index.js", "server.js", "main.go", "package-lock.json", "yarn.lock", "go.sum",
)  # fmt: skip
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Proposal:
    """The manifest's text, and why it says what it says."""

    appname: str
    text: str
    because: tuple[str, ...]


def look(directory: Path) -> dict[str, str]:
    """The files of ``LOOKED_AT`` that are there, with their text."""
    found: dict[str, str] = {}
    for name in LOOKED_AT:
        path = directory / name
        if path.is_file():
            with path.open("rb") as file:
                found[name] = file.read(MAX_BYTES).decode("utf-8", errors="replace")
    return found


def appname(text: str) -> str:
    """A valid app name that resembles ``text``."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = re.sub(r"^[^a-z]+", "", name)[:30].rstrip("-")
    return name if name and name not in ("service", "resource", "portal") else f"{name or 'my'}-app"


def propose(files: Mapping[str, str], name: str) -> Proposal:
    """A manifest that validates, for any files."""
    app = appname(name)
    because: list[str] = []
    procfile = procs_of(files.get("Procfile", ""))
    if procfile:
        because.append(f"Procfile names {', '.join(procfile)}")
    if "Dockerfile" in files:
        because.insert(0, "Dockerfile: the image is built from it")
        build = ["build:", "  dockerfile: Dockerfile"]
        port = exposed(files["Dockerfile"]) or 8000
        web = procfile.get("web", "")
    elif "go.mod" in files:
        version = _match(r"^go (\d+\.\d+)", files["go.mod"]) or "1.22"
        because.insert(0, f"go.mod: Go {version}, one static binary on an empty base")
        # An empty base has no shell: the binary is started as it is.
        build = [
            "build:", f"  base: golang:{version}", "  prepare:", "    script:", "      - go mod download",
            "  script:", f"    - CGO_ENABLED=0 go build -o /lain/app/{app} .",
            "release:", "  dest_base: gcr.io/distroless/static", "  copy:", f"    - {_quoted(app)}",
        ]  # fmt: skip
        port, web = 8000, procfile.get("web", "") or f"/lain/app/{app}"
    elif "package.json" in files:
        scripts, node = node_of(files["package.json"])
        because.insert(0, f"package.json: Node {node}")
        install = (
            "npm ci"
            if "package-lock.json" in files
            else "yarn install --frozen-lockfile"
            if "yarn.lock" in files
            else "npm install"
        )
        lines = [f"    - {install}", *(["    - npm run build"] if "build" in scripts else [])]
        build = ["build:", f"  base: node:{node}-slim", "  script:", *lines]
        port = 3000
        main = _first(files, "server.js", "index.js") or "index.js"
        web = procfile.get("web", "") or ("npm start" if "start" in scripts else f"node {main}")
    elif "requirements.txt" in files or "pyproject.toml" in files or any(name.endswith(".py") for name in files):
        version = python_of(files)
        install = (
            "pip install -r requirements.txt"
            if "requirements.txt" in files
            else "pip install ."
            if "pyproject.toml" in files
            else ""
        )
        because.insert(0, f"Python {version}" + (f": {install}" if install else ""))
        build = ["build:", f"  base: python:{version}-slim", "  script:" if install else "  script: []"]
        build += [f"    - {install}"] if install else []
        main = _first(files, "serve.py", "server.py", "app.py", "main.py", "wsgi.py") or "main.py"
        port = 8000
        django = "python manage.py runserver 0.0.0.0:8000" if "manage.py" in files else ""
        web = procfile.get("web", "") or django or f"python {main}"
    else:
        because.append("nothing known was found: change base, script and cmd")
        build = ["build:", "  base: debian:12-slim", "  script: []"]
        port, web = 8000, procfile.get("web", "") or "./run"
    lines = [f"appname: {_quoted(app)}", *build]
    if "web" in procfile or not procfile:
        lines += ["web:", *_command(web, port), f"  port: {port}", "  memory: 64m"]
        because.append(f"web listens on port {port}")
    for proc, command in procfile.items():
        if proc != "web":
            kind = "oneshot" if proc in ("release", "migrate") else "worker"
            lines += [f"{kind}.{appname(proc)}:", *_command(command, port), "  memory: 64m"]
    return Proposal(app, "\n".join(lines) + "\n", tuple(because))


def _command(command: str, port: int) -> list[str]:
    """``cmd`` of a proc; nothing when the image has its own. What a shell would expand gets a shell."""
    if not command:
        return []
    command = re.sub(r"\$\{?PORT\}?", str(port), command)
    if re.search(r"[$&|;<>*`]", command) or not _splits(command):
        return [
            f"  cmd: {json.dumps(['/bin/sh', '-c', 'exec ' + command if not re.search(r'[&|;]', command) else command])}"
        ]
    return [f"  cmd: {json.dumps(command)}"]


def _quoted(word: str) -> str:
    """``word`` as YAML text, whatever YAML would rather read it as."""
    return f'"{word}"' if word in ("true", "false", "null", "yes", "no", "on", "off", "y", "n") else word


def _splits(command: str) -> bool:
    try:
        return bool(shlex.split(command))
    except ValueError:
        return False


def procs_of(procfile: str) -> dict[str, str]:
    """name → command of a Procfile; other lines are skipped."""
    found: dict[str, str] = {}
    for line in procfile.splitlines():
        if (match := re.match(r"([A-Za-z][A-Za-z0-9_-]*):\s*(\S.*)", line)) and not line.lstrip().startswith("#"):
            found.setdefault(match[1].lower().replace("_", "-").rstrip("-"), match[2].strip())
    return found


def exposed(dockerfile: str) -> int | None:
    """The first port of ``EXPOSE``."""
    found = _match(r"(?im)^\s*EXPOSE\s+(\d+)", dockerfile)
    return int(found) if found and 0 < int(found) < 65536 else None


def node_of(text: str) -> tuple[frozenset[str], str]:
    """Names of the scripts, and the major version of Node that ``engines`` asks for."""
    try:
        document = json.loads(text)
        scripts = frozenset(map(str, (document.get("scripts") or {}).keys()))
        engine = str((document.get("engines") or {}).get("node", ""))
    except (ValueError, AttributeError):
        return frozenset(), "20"
    return scripts, _match(r"(\d+)", engine) or "20"


def python_of(files: Mapping[str, str]) -> str:
    """The Python version that ``requires-python`` begins with, at least 3.11."""
    try:
        asked = str(tomllib.loads(files.get("pyproject.toml", "")).get("project", {}).get("requires-python", ""))
    except (tomllib.TOMLDecodeError, AttributeError):
        asked = ""
    minor = _match(r"3\.(\d+)", asked)
    return f"3.{max(int(minor), 11)}" if minor else "3.12"


def _first(files: Mapping[str, str], *names: str) -> str | None:
    return next((name for name in names if name in files), None)


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else None
