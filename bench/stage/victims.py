"""Who is killed: the process to kill by the victim's name, and since when its successor does its work."""

from __future__ import annotations

import threading
import time

from bench.stage.node import NODE, Node, ShellFailed
from lain_cli.local.platform import Site, parts

VICTIMS = (
    "console", "deployd", "agent", "watcher", "nginx-master", "nginx-worker", "dockerd", "etcd", "registry",
)  # fmt: skip


def victim(node: Node, name: str) -> int:
    """The process to kill."""
    match name:
        case "dockerd":
            return node.pids("dockerd")[0]
        case "nginx-master":
            return master(node)
        case "nginx-worker":
            return node.children(master(node))[0]
    return node.parts()[name].pid


def master(node: Node) -> int:
    return node.children(node.parts()["nginx"].pid)[0]


class Back:
    """Waits, in a thread, until the victim's successor does its work."""

    def __init__(self, node: Node, name: str, pid: int) -> None:
        self._node, self._name, self._pid = node, name, pid
        self._at: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def wait(self, deadline: float) -> float | None:
        self._thread.join(max(0.1, deadline - time.time()))
        self._ended.set()
        return self._at

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                if self._is_back():
                    self._at = time.time()
                    return
            except (ShellFailed, IndexError, KeyError):
                pass
            self._ended.wait(0.1)

    def _is_back(self) -> bool:
        if self._name == "dockerd":
            return bool(self._node.sh("docker version --format '{{.Server.Version}}'"))
        if victim(self._node, self._name) == self._pid:
            return False
        part = next((one for one in parts(Site(NODE, "127.0.0.1")) if one.name == self._name), None)
        if part is not None:
            self._node.run(*part.ready)
        return True
