"""The private registry that shares prepare images between machines (``private_docker_registry``): which tags it has; push and pull.

Without that setting it has nothing and takes nothing. A cluster's own registry is read through the console instead.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import urllib.error
import urllib.request

from lain_cli.context import Run
from lain_cli.images import image
from lain_shared.errors import LainError

TIMEOUT_SECONDS = 10


class PrepareRegistry:
    """``address`` is ``host:port``, or empty."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.address = run.config.global_value("private_docker_registry")

    def tags(self, repository: str) -> tuple[str, ...]:
        """Tags of ``repository``; empty when it is unknown, or (with a word on stderr) when the registry cannot be asked."""
        if not self.address:
            return ()
        schemes = ("https", "http") if self._insecure() else ("https",)
        why = ""
        for scheme in schemes:
            try:
                return self._read(f"{scheme}://{self.address}/v2/{repository}/tags/list")
            except (OSError, ValueError) as error:
                why = str(error)
        self._run.progress.line(
            f"the private registry {self.address} cannot be asked ({why}); going on without it", "warn"
        )
        return ()

    def pull(self, app: str, tag: str) -> None:
        """Fetch ``app:tag`` and give it its local name."""
        remote = f"{self.address}/{app}:{tag}"
        self._run.docker.pull(remote)
        self._run.docker.tag(remote, f"{app}:{tag}")

    def push(self, app: str, tag: str) -> None:
        """Share ``app:tag``; nothing without a registry, and no failure when it refuses: it is a cache."""
        if not self.address:
            return
        remote = f"{self.address}/{app}:{tag}"
        self._run.docker.tag(f"{app}:{tag}", remote)
        try:
            self._run.docker.push(remote)
        except LainError as error:
            self._run.progress.line(f"{remote} was not shared: {error.message} ({error.why})", "warn")

    def push_version(self, app: str, version: str | None, phases: tuple[str, ...]) -> None:
        """Share the images of a version; a failure is one."""
        for phase in phases:
            remote = image(app, phase, version, self.address)
            self._run.docker.tag(image(app, phase, version), remote)
            self._run.docker.push(remote)

    def _insecure(self) -> bool:
        """Does Docker itself take this registry without a trusted certificate? (Loopback, or configured so.)"""
        told = self._run.docker.ask("info", "--format", "{{json .RegistryConfig}}") or "{}"
        document = json.loads(told) or {}
        index = (document.get("IndexConfigs") or {}).get(self.address)
        if index is not None:
            return not index.get("Secure", True)
        try:
            host = ipaddress.ip_address(self.address.rpartition(":")[0] or self.address)
        except ValueError:
            return self.address.startswith("localhost:")
        return any(host in ipaddress.ip_network(network) for network in document.get("InsecureRegistryCIDRs") or ())

    def _read(self, url: str) -> tuple[str, ...]:
        request = urllib.request.Request(url)  # noqa: S310 - the scheme is ours
        if header := docker_credentials(self._run, self.address):
            request.add_header("Authorization", f"Basic {header}")
        context = ssl._create_unverified_context() if self._insecure() else None  # noqa: S323 - as docker itself does
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:  # noqa: S310
                return tuple(json.load(answer).get("tags") or ())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return ()
            raise


def docker_credentials(run: Run, registry: str) -> str:
    """What ``docker login`` stored for ``registry`` as text (keychains are not asked): base64 of ``user:password``, or ""."""
    from pathlib import Path  # noqa: PLC0415

    directory = run.environ.get("DOCKER_CONFIG") or str(Path(run.environ.get("HOME", "/root")) / ".docker")
    try:
        document = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
        found = str(document["auths"][registry]["auth"])
        base64.b64decode(found)
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found
