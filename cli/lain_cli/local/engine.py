"""A Docker Engine of our own, for machines where Docker is installed and nothing starts it (no systemd). We stop only what we started.

Its data stay in the user's cache directory (images are worth keeping); what it put into the kernel's tables is taken out again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lain_cli.local.docker import CommandFailed, Docker, run
from lain_shared.errors import Unavailable

START_SECONDS = 30.0
STOP_SECONDS = 30.0
SOCKET = Path("/var/run/docker.sock")
EXEC_ROOT = Path("/run/lain-engine")
"""Sockets lie below it, and a socket's path may have 107 characters: not in the user's folders."""
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True, slots=True)
class Started:
    """What is needed to undo a start: which process, and how the kernel stood before."""

    pid: int
    started: str
    ip_forward: str
    tables: tuple[str, ...]
    bridge: bool


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """The Engine this user's ``lain local`` may start, whichever cluster asks for it."""

    folder: Path

    @property
    def record(self) -> Path:
        return self.folder / "engine.json"

    def can_start(self) -> bool:
        """Whether starting one is ours to do: root, dockerd installed, no other Engine chosen by ``DOCKER_HOST``, none at the socket."""
        chosen = os.environ.get("DOCKER_HOST", "")
        return (
            os.name == "posix"
            and os.geteuid() == 0
            and shutil.which("dockerd") is not None
            and chosen in ("", f"unix://{SOCKET}")
            and not Path("/run/systemd/system").exists()
        )

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While this lasts no other process stops the Engine, though it runs nothing: a cluster is being made, or taken away."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """The lock of the Engine's life. Raises ``BlockingIOError`` where ``how`` says not to wait."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, how)
            yield

    def start(self, docker: Docker) -> None:
        """Start dockerd, unless another process just did, and wait until it answers; ``Unavailable`` tells its last words. One that only is
        slow stays ours to stop."""
        with self._locked(fcntl.LOCK_EX):
            if not answers(docker):
                self._start(docker)

    def _start(self, docker: Docker) -> None:
        if (running := self.started()) is not None:
            raise Unavailable(
                "the Docker Engine that lain local started does not answer", evidence={"pid": running.pid},
                next=f"read {self.folder / 'dockerd.log'}", code="engine_silent",
            )  # fmt: skip
        pidfile, logfile = self.folder / "dockerd.pid", self.folder / "dockerd.log"
        pidfile.unlink(missing_ok=True)
        before = (_ip_forward(), _tables(), _has_bridge())
        with logfile.open("ab") as log:
            process = subprocess.Popen(
                [
                    "dockerd", "--data-root", str(self.folder / "data"), "--exec-root", str(EXEC_ROOT),
                    "--host", f"unix://{SOCKET}", "--pidfile", str(pidfile), "--live-restore",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            )  # fmt: skip
        record = Started(process.pid, _started_at(process.pid), before[0], before[1], before[2])
        self.record.write_text(json.dumps(asdict(record)))
        deadline = time.monotonic() + START_SECONDS
        while not answers(docker):
            ended = process.poll() is not None
            if ended or time.monotonic() > deadline:
                if ended:
                    self.record.unlink(missing_ok=True)
                what = "did not start" if ended else f"does not answer after {START_SECONDS:.0f} s"
                lines = logfile.read_text(errors="replace").splitlines()[-8:]
                raise Unavailable(
                    f"the Docker Engine {what}", evidence={"its_last_words": lines}, next=f"read {logfile}"
                )
            time.sleep(0.1)

    def started(self) -> Started | None:
        """What we started and is still running, or None."""
        try:
            document = json.loads(self.record.read_text())
            document["tables"] = tuple(document["tables"])
            record = Started(**document)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if _started_at(record.pid) == record.started else None

    def stop(self, docker: Docker) -> str | None:
        """Stop the Engine if we started it and nothing else runs on it. Returns why it was left running; None: gone, or not ours."""
        try:
            with self._locked(fcntl.LOCK_EX | fcntl.LOCK_NB):
                return self._stop(docker)
        except BlockingIOError:
            return "another lain local is at work"

    def _stop(self, docker: Docker) -> str | None:
        record = self.started()
        if record is None:
            self.record.unlink(missing_ok=True)
            return None
        if others := docker.run("ps", "--format", "{{.Names}}"):
            return f"it also runs {', '.join(others.split())}"
        os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while _started_at(record.pid) == record.started:
            if time.monotonic() > deadline:
                raise Unavailable(
                    "the Docker Engine does not end", evidence={"pid": record.pid}, next=f"kill {record.pid}"
                )
            with contextlib.suppress(ChildProcessError):
                os.waitpid(record.pid, os.WNOHANG)
            time.sleep(0.05)
        _clean(record)
        self.record.unlink(missing_ok=True)
        return None


def answers(docker: Docker) -> bool:
    return docker.succeeds("version", "--format", "{{.Server.Version}}")


def _started_at(pid: int) -> str:
    """A process's start time in clock ticks (field 22 of its stat); empty when it is gone or a zombie. A pid alone may be reused."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _ip_forward() -> str:
    try:
        return FORWARD.read_text().strip()
    except OSError:
        return ""


def _has_bridge() -> bool:
    try:
        run(["ip", "link", "show", "docker0"], timeout_seconds=10)
    except (CommandFailed, Unavailable):
        return False
    return True


def _tables() -> tuple[str, ...]:
    """The nft tables there are, as ``family name``."""
    if shutil.which("nft") is None:
        return ()
    try:
        text = run(["nft", "list", "tables"], timeout_seconds=10)
    except (CommandFailed, Unavailable):
        return ()
    return tuple(line.removeprefix("table ") for line in text.splitlines())


def _clean(record: Started) -> None:
    """Take out what the Engine left in the kernel: its bridge, its chains (whole tables, where there were none before), forwarding."""
    if not record.bridge and _has_bridge():
        run(["ip", "link", "delete", "docker0"], timeout_seconds=10)
    for table in _tables():
        if table not in record.tables and table.split()[-1] in ("filter", "nat", "mangle", "raw"):
            run(["nft", "delete", "table", *table.split()], timeout_seconds=10)
    for table in ("filter", "nat"):
        if f"ip {table}" in record.tables:
            _remove_chains(table)
    if record.ip_forward and _ip_forward() != record.ip_forward:
        FORWARD.write_text(record.ip_forward)


def _remove_chains(table: str) -> None:
    """Remove Docker's chains, and the jumps into them, from an iptables table that others use too."""
    rules = run(["iptables", "-t", table, "-S"], timeout_seconds=10).splitlines()
    for rule in rules:
        if rule.startswith("-A") and ("DOCKER" in rule or "docker0" in rule):
            run(["iptables", "-t", table, "-D", *rule.split()[1:]], timeout_seconds=10)
    chains = [rule.split()[1] for rule in rules if rule.startswith("-N DOCKER")]
    for flag in ("-F", "-X"):
        for chain in chains:
            run(["iptables", "-t", table, flag, chain], timeout_seconds=10)
