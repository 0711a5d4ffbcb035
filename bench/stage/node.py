"""The node of a proof's cluster from inside: a shell that stays open, its containers, a process killed at the moment it is asked for."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

NODE = "n1"
POD, PART = "lain.pod", "lain.part"
_FIELDS = "{{.Id}}\t{{.Name}}\t{{.State.Status}}\t{{.State.StartedAt}}\t{{.State.Pid}}\t{{.RestartCount}}\t{{.State.OOMKilled}}"
_FORMAT = _FIELDS + "\t" + "\t".join(f'{{{{index .Config.Labels "{label}"}}}}' for label in (POD, PART))


class ShellFailed(Exception):
    """A command on the node ended badly; the message has what it said."""


@dataclass(frozen=True, slots=True)
class Box:
    """A container on the node. ``pid``: of its first process, in the node; ``pod``, ``part``: what it is of LAIN's, else ""."""

    id: str
    name: str
    state: str
    started_at: str
    pid: int
    restarts: int
    oom_killed: bool
    pod: str
    part: str

    @property
    def run(self) -> tuple[str, str, int]:
        """Another one means that it was made anew or started again."""
        return (self.id, self.started_at, self.restarts)


@dataclass(slots=True)
class Node:
    """The node container ``container``. One command at a time; any thread may ask."""

    container: str
    _shell: subprocess.Popen[str]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextlib.contextmanager
    def of(cls, container: str) -> Iterator[Node]:
        shell = subprocess.Popen(
            ["docker", "exec", "-i", container, "sh"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        try:
            yield cls(container, shell)
        finally:
            assert shell.stdin is not None
            with contextlib.suppress(OSError):
                shell.stdin.close()
            try:
                shell.wait(5)
            except subprocess.TimeoutExpired:
                shell.kill()

    def sh(self, script: str) -> str:
        """What ``script`` says, both streams, stripped. ``ShellFailed`` unless it exits 0."""
        mark = secrets.token_hex(8)
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        with self._lock:
            self._shell.stdin.write(f"( {script}\n) </dev/null 2>&1; printf '\\n{mark} %d\\n' $?\n")
            self._shell.stdin.flush()
            said: list[str] = []
            while line := self._shell.stdout.readline():
                if line.startswith(mark):
                    break
                said.append(line)
            else:
                raise ShellFailed(f"the shell on {self.container} is gone")
        text = "".join(said).strip()
        if code := int(line.split()[1]):
            raise ShellFailed(f"{script[:200]} ended with {code}: {text[-1000:]}")
        return text

    def run(self, *argv: str) -> str:
        return self.sh(shlex.join(argv))

    def boxes(self) -> tuple[Box, ...]:
        """Every container there is, running or not. One that goes while we look is left out."""
        listed = self.sh(
            f"ids=$(docker ps -aq --no-trunc) && docker inspect --format '{_FORMAT}' $ids 2>/dev/null || true"
        )
        found = []
        for line in listed.splitlines():
            parts = line.replace("<no value>", "").split("\t")
            if len(parts) == 9:
                id, name, state, started_at, pid, restarts, oom, pod, part = parts
                found.append(
                    Box(id, name.lstrip("/"), state, started_at, int(pid), int(restarts), oom == "true", pod, part)
                )
        return tuple(found)

    def parts(self) -> Mapping[str, Box]:
        """The platform's containers by name, without ``lain-``."""
        return {box.part: box for box in self.boxes() if box.part}

    def children(self, pid: int) -> tuple[int, ...]:
        return tuple(int(word) for word in self.sh(f"ps -o pid= --ppid {pid} || true").split())

    def pids(self, command: str) -> tuple[int, ...]:
        """The processes of exactly that name."""
        return tuple(int(word) for word in self.sh(f"pgrep -x {shlex.quote(command)} || true").split())

    def kill(self, pid: int, signal: str = "KILL") -> float:
        """Send a signal to a process; returns the unix time just before."""
        at = time.time()
        self.sh(f"kill -{signal} {pid}")
        return at
