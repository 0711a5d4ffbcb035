"""What processes on the node use: memory, processor, descriptors; as the kernel counts it (proc(5)), asked in one go.

A part of the platform is its container's first process and all that came of it. The healthcheck that the Engine runs inside a container is
none of those: what it costs shows only in ``container_seconds``, the container's own account.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bench.stage.node import Node
from bench.stage.peers import ONE_SHOT, NodeContainer, engine_of

TICKS_A_SECOND = 100
"""USER_HZ: what proc(5) counts in, on every architecture Debian has."""
_SCRIPT = """for p in {pids}; do
echo "@ $p"
cat /proc/$p/stat
grep -E '^(VmRSS|Threads):' /proc/$p/status
grep -E '^Pss:' /proc/$p/smaps_rollup
echo "Fds: $(ls /proc/$p/fd | wc -l)"
done 2>/dev/null || true"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes together. ``cpu_seconds``: since each was started; ``pss_kib``: memory they share counted once, by shares."""

    processes: int = 0
    rss_kib: int = 0
    pss_kib: int = 0
    cpu_seconds: float = 0.0
    descriptors: int = 0
    threads: int = 0

    def plus(self, other: Usage) -> Usage:
        return Usage(
            self.processes + other.processes, self.rss_kib + other.rss_kib, self.pss_kib + other.pss_kib,
            self.cpu_seconds + other.cpu_seconds, self.descriptors + other.descriptors, self.threads + other.threads,
        )  # fmt: skip


def usages(node: Node, roots: Mapping[str, int]) -> dict[str, Usage]:
    """Name → what the process tree under that process of the node uses."""
    parents = {
        int(pid): int(parent) for pid, parent in (line.split() for line in node.sh("ps -eo pid=,ppid=").splitlines())
    }
    trees = {name: tree(parents, root) for name, root in roots.items()}
    each = read(node.sh(_SCRIPT.format(pids=" ".join(str(pid) for pids in trees.values() for pid in pids))))
    found: dict[str, Usage] = {}
    for name, pids in trees.items():
        total = Usage()
        for pid in pids:
            total = total.plus(each.get(pid, Usage()))
        found[name] = total
    return found


def tree(parents: Mapping[int, int], root: int) -> tuple[int, ...]:
    """``root`` and all its descendants (pure). ``parents``: process → its parent."""
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return tuple(found)


def read(said: str) -> dict[int, Usage]:
    """What the script on the node said (pure). A process that ended meanwhile is left out."""
    found: dict[int, Usage] = {}
    for block in said.split("@ ")[1:]:
        lines = block.splitlines()
        if len(lines) < 2 or ") " not in lines[1]:
            continue
        times = lines[1].rpartition(") ")[2].split()
        told = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines[2:]) if value}
        found[int(lines[0])] = Usage(
            processes=1,
            rss_kib=told.get("VmRSS", 0),
            pss_kib=told.get("Pss", 0),
            cpu_seconds=(int(times[11]) + int(times[12])) / TICKS_A_SECOND,
            descriptors=told.get("Fds", 0),
            threads=told.get("Threads", 0),
        )
    return found


def container_seconds(node: str, ids: Iterable[str]) -> dict[str, float]:
    """Container → processor seconds it used since it was started, everything in it counted. ``node``: the node's own container."""

    async def ask() -> dict[str, float]:
        async with engine_of(NodeContainer(node)) as engine:
            wanted = list(ids)  # at once: each takes the Engine up to a second
            told = await asyncio.gather(
                *(engine.call("GET", f"containers/{id}/stats", stream=False, **ONE_SHOT) for id in wanted)
            )
            used = (float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9 for stats in told)
            return dict(zip(wanted, used, strict=True))

    return asyncio.run(ask())
