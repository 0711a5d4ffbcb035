"""Where the command line finds its clusters: three YAML files, later ones win, and the environment over all.

``/etc/lain/lain.conf.yaml`` (any key), ``~/.lain/global.conf.yaml`` (global keys), ``~/.lain/lain.conf.yaml`` (one map per phase,
mode 0600 in a directory of mode 0700, because tokens stand in it). ``LAIN_HOME`` replaces ``~/.lain``, ``LAIN_SYSTEM_CONF`` the
system file. Nothing is read before a command asks.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lain_shared.errors import Invalid, NotFound

SECRET_KEYS = frozenset({"token", "registry_password", "sso_token", "sso_refresh_token"})
HIDDEN = "***"
DEFAULT_DOMAIN = "lain.localhost"

PHASE_KEYS: Mapping[str, str] = {
    "console": "URL of the console, e.g. https://10.0.0.1:9510",
    "deployd": "URL of the deployd controller (operators)",
    "domain": "main domain of the cluster",
    "token": "bearer token",
    "ca": "the cluster's CA: a path, or PEM text",
    "registry": "host:port images are pushed to",
    "registry_user": "user of that registry",
    "registry_password": "its password",
    "router_http": "port of the router for HTTP",
    "router_https": "port of the router for HTTPS",
    "router": "address the router answers at, when names do not lead there",
}
GLOBAL_KEYS: Mapping[str, str] = {
    "default_phase": "phase used when none is named",
    "private_docker_registry": "host:port of a registry that shares prepare images",
    "domain": "domain of phases that name none",
}

_PHASE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Phase:
    """One cluster as this machine knows it. Ports are TCP ports; an empty text means: not configured."""

    name: str
    console: str = ""
    deployd: str = ""
    domain: str = DEFAULT_DOMAIN
    token: str = field(default="", repr=False)
    ca: str = ""
    registry: str = ""
    registry_user: str = ""
    registry_password: str = field(default="", repr=False)
    router_http: int = 80
    router_https: int = 443
    router: str = ""

    def ca_pem_or_path(self) -> str | None:
        """The CA as the SDK takes it: PEM text or a path; None when the system's CAs decide."""
        return self.ca or None


class Config:
    """The three files, read lazily and once."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        home = self._environ.get("LAIN_HOME") or str(Path(self._environ.get("HOME") or Path.home()) / ".lain")
        self.home = Path(home)
        self.system_file = Path(self._environ.get("LAIN_SYSTEM_CONF") or "/etc/lain/lain.conf.yaml")
        self.global_file = self.home / "global.conf.yaml"
        self.phase_file = self.home / "lain.conf.yaml"
        self._read: dict[Path, dict[str, Any]] = {}

    def _file(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            self._read[path] = read_yaml(path)
        return self._read[path]

    def merged(self) -> dict[str, Any]:
        """Everything, later files winning; a phase's map is merged key by key."""
        found: dict[str, Any] = {}
        for path in (self.system_file, self.global_file, self.phase_file):
            for key, value in self._file(path).items():
                if isinstance(value, dict) and isinstance(found.get(key), dict):
                    found[key] = {**found[key], **value}
                else:
                    found[key] = value
        return found

    def shown(self) -> dict[str, Any]:
        """``merged`` with every secret hidden."""
        merged: dict[str, Any] = hide(self.merged())
        return merged

    def phases(self) -> tuple[str, ...]:
        """Names of the configured phases, in file order."""
        return tuple(key for key, value in self.merged().items() if isinstance(value, dict))

    def global_value(self, key: str) -> str:
        value = self.merged().get(key)
        return "" if value is None or isinstance(value, dict) else str(value)

    def default_phase(self) -> str:
        """``LAIN_PHASE``, else the default one, else the only one. Raises ``Invalid`` that names what can be done."""
        if named := self._environ.get("LAIN_PHASE"):
            return named
        if default := self.global_value("default_phase"):
            return default
        match self.phases():
            case [only]:
                return only
            case []:
                raise Invalid(
                    "no phase is configured",
                    why=f"neither {self.phase_file} nor {self.system_file} describes a cluster",
                    next="lain local up (a cluster on this machine), or: lain login -p NAME --console https://HOST:9510 --token -",
                    code="phase_unknown",
                )
            case several:
                raise Invalid(
                    "several phases are configured and none is chosen",
                    evidence={"phases": list(several)},
                    next=f"lain use {several[0]}, or add -p {several[0]}, or set LAIN_PHASE",
                    code="phase_ambiguous",
                )

    def phase(self, name: str | None = None) -> Phase:
        """The phase ``name`` (None: the default one); ``NotFound`` says how to add it."""
        name = name or self.default_phase()
        document = self.merged().get(name)
        if not isinstance(document, dict):
            known = list(self.phases())
            raise NotFound(
                f"phase {name!r} is not configured",
                why=f"{self.phase_file} describes {', '.join(known) if known else 'no phase'}",
                next=f"lain config save {name} console https://HOST:9510 (and domain, ca, token), or: lain local up",
                code="phase_unknown",
            )
        values: dict[str, Any] = {"domain": self.global_value("domain") or DEFAULT_DOMAIN}
        for key in PHASE_KEYS:
            if key in document and document[key] is not None:
                values[key] = (
                    _port(name, key, document[key]) if key in ("router_http", "router_https") else str(document[key])
                )
        if token := self._environ.get("LAIN_TOKEN"):
            values["token"] = token
        return Phase(name=name, **values)

    def save_phase(self, phase: str, values: Mapping[str, Any]) -> None:
        """Set keys of one phase (created when new). ``Invalid`` for a key that means nothing."""
        if not _PHASE_NAME.match(phase) or phase in GLOBAL_KEYS:
            raise Invalid(
                f"{phase!r} cannot name a phase", why="a letter, then letters, digits, - and _", code="phase_name"
            )
        for key in values:
            _known(key, PHASE_KEYS)
        document = dict(self._file(self.phase_file))
        current = document.get(phase)
        document[phase] = {**(current if isinstance(current, dict) else {}), **values}
        self._write(self.phase_file, document)

    def forget_phase(self, phase: str) -> None:
        """Remove a phase from the user's file, and from being the default; no error when it is not there."""
        document = {key: value for key, value in self._file(self.phase_file).items() if key != phase}
        self._write(self.phase_file, document)
        if self._file(self.global_file).get("default_phase") == phase:
            self._write(
                self.global_file, {k: v for k, v in self._file(self.global_file).items() if k != "default_phase"}
            )

    def save_global(self, key: str, value: str) -> None:
        _known(key, GLOBAL_KEYS)
        self._write(self.global_file, {**self._file(self.global_file), key: value})

    def _write(self, path: Path, document: dict[str, Any]) -> None:
        import yaml  # noqa: PLC0415 - only writers pay for it

        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                yaml.safe_dump(document, file, sort_keys=False, allow_unicode=True)
            Path(temporary).chmod(0o600)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        self._read[path] = document


def hide(value: Any) -> Any:
    """``value`` with every token and password replaced by ``***``."""
    if isinstance(value, dict):
        return {key: HIDDEN if key in SECRET_KEYS and item else hide(item) for key, item in value.items()}
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The map in ``path``; empty when there is no such file. ``Invalid`` names file and line of what cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read", why=str(error), code="config_unreadable") from error
    import yaml  # noqa: PLC0415 - a machine without configuration does not pay for it

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{path} is not YAML", why=" ".join(str(error).split()), code="config_unreadable") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise Invalid(f"{path} must hold a map", why=f"found {type(document).__name__}", code="config_unreadable")
    return {str(key): value for key, value in document.items()}


def _known(key: str, keys: Mapping[str, str]) -> None:
    if key not in keys:
        raise Invalid(f"{key!r} is no configuration key", why=f"known: {', '.join(keys)}", code="config_key")


def _port(phase: str, key: str, value: Any) -> int:
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = 0
    if not 0 < port < 65536:
        raise Invalid(f"phase {phase}: {key} must be a port, not {value!r}", next=f"lain config save {phase} {key} 80")
    return port
