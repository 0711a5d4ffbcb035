"""The daemons of the stage's cluster, each at its own door: where it listens, its API, its metrics."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.stage.cluster import Stage
from lain_cli.config import Config, Phase
from lain_sdk.client import Console, Deployd

PORTS = {"console": 9510, "controller": 9511, "agent": 9520, "watcher": 9530}
ANSWER_SECONDS = 30.0
Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""(name, labels) → value."""


@dataclass(frozen=True)
class Daemons:
    """Where they are, and how they know us."""

    on: Stage

    @cached_property
    def _phase(self) -> Phase:
        return Config({"LAIN_HOME": str(self.on.cluster.home)}).phase(self.on.cluster.name)

    @property
    def token(self) -> str:
        """The first operator's, as the cluster's making left it."""
        return self._phase.token

    @property
    def ca(self) -> Path:
        return Path(self._phase.ca)

    def url(self, name: str) -> str:
        return f"https://{self.on.address}:{PORTS[name]}"

    def fetch(self, name: str, path: str, *, method: str = "GET", timeout_seconds: float = ANSWER_SECONDS) -> bytes:
        """Asked with the token; raises ``RuntimeError`` for anything but a 2xx."""
        connection = http.client.HTTPSConnection(
            self.on.address, PORTS[name], timeout=timeout_seconds, context=self.tls
        )
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {self.token}"})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} {path} of {name} answered {answer.status}: {body[:500]!r}")
        return body

    @cached_property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def metrics(self, name: str) -> Samples:
        """Everything it tells Prometheus now."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.fetch(name, "/metrics").decode())
            for sample in family.samples
        }

    def console(self) -> Console:
        """A client of the console, for one event loop."""
        return Console(self.url("console"), token=self.token, ca=self.ca)

    def deployd(self) -> Deployd:
        """A client of the controller, for one event loop."""
        return Deployd(self.url("controller"), token=self.token, ca=self.ca)
