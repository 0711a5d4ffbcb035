"""The cluster a proof runs on: an isolated local one of its own, made by the command line, gone at the end."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.report import Proof
from tests.fixtures.cluster import App, LocalCluster, isolated_cluster

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True, slots=True)
class Stage:
    """A running cluster, and a folder for the repositories of the apps that go on it."""

    cluster: LocalCluster
    folder: Path

    def app(self, kind: str, name: str) -> App:
        """A repository of ``bench/stage/apps/<kind>``, as the app ``name``; not yet shipped."""
        return self.cluster.app_from(APPS / kind, self.folder, name=name)


@contextlib.contextmanager
def stage(proof: Proof) -> Iterator[Stage]:
    """``LAIN_TEST_CLUSTER=NAME:HOME`` uses a cluster that is up already, and leaves it (while writing a proof)."""
    proof.say("a cluster")
    with tempfile.TemporaryDirectory(prefix="lain-bench-") as folder, isolated_cluster("bench") as cluster:
        proof.say("it is up")
        yield Stage(cluster, Path(folder))
