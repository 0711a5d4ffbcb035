"""The cluster a proof runs on: an isolated local one of its own, made by the command line, gone at the end."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bench.report import Proof
from lain_cli.local.images import PLATFORM
from lain_cli.local.platform import Site, parts, replacement, run_argv
from tests.fixtures.cluster import App, LocalCluster, isolated_cluster, wait_until

NODE = "n1"
EVENTS_SECONDS = 0.2
"""How much longer than now the Engine is listened to: `--until 0s` ends at the last whole second, and what was done since is missing."""
APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Stage:
    """A running cluster, and a folder for the repositories of the apps that go on it."""

    cluster: LocalCluster
    folder: Path
    port: int = 80
    """The router's, at ``address``."""

    @cached_property
    def address(self) -> str:
        """The node's own, as another machine on its network reaches it: no port forwarder of this machine's Engine stands between."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.cluster.run("docker", "inspect", "--format", form, self.cluster.container).out.strip()

    def docker(self, *words: str) -> str:
        """A command to the node's Engine; what it said."""
        return self.cluster.on_node("docker", *words).out.strip()

    def engine_events(self, since: float, app: str) -> dict[str, float]:
        """What the node's Engine did to containers of ``app`` since then: action → when first, in unix seconds."""
        found: dict[str, float] = {}
        for action, at in self._events(since, app):
            found.setdefault(action, at)
        return found

    def engine_moments(self, since: float, app: str, action: str) -> list[float]:
        """When it did that to one of them."""
        return [at for one, at in self._events(since, app) if one == action]

    def _events(self, since: float, app: str) -> Iterator[tuple[str, float]]:
        said = self.docker(
            "events",
            "--since",
            f"{since:.9f}",
            "--until",
            f"{time.time() + EVENTS_SECONDS:.9f}",
            "--filter",
            "type=container",
            "--format",
            "{{json .}}",
        )
        for line in said.splitlines():
            event = json.loads(line)
            if event["Actor"]["Attributes"].get("name", "").startswith(f"{app}."):
                yield event["Action"], event["timeNano"] / 1e9

    def upgrade(self, name: str) -> None:
        """Replace one part of the platform as ``lain local up`` does when its image is newer; here by the same one under another tag."""
        part = next(one for one in parts(Site(NODE, self.address)) if one.name == name)
        tag = next(image.tag for image in PLATFORM if image.name == part.image)
        image_id = self.docker("image", "inspect", "--format", "{{.Id}}", tag)
        self.docker("tag", tag, f"{tag}-next")
        self.cluster.on_node("sh", "-c", replacement(part, run_argv(part, f"{tag}-next", image_id)))

    def wait_ready(self, name: str, seconds: float = 60.0) -> None:
        """Until a part of the platform says so itself."""
        part = next(one for one in parts(Site(NODE, self.address)) if one.name == name)
        wait_until(lambda: self.cluster.on_node(*part.ready, code=None).code == 0, f"{name} is ready", seconds)

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
