"""A bad neighbour: does what ``MODE`` says, from a few seconds after its start until the unix time ``UNTIL``.

Every load ends by itself: by the time, by a count, and by the limits of its container.
"""

import os
import random
import sys
import time
from pathlib import Path

MODE, UNTIL = os.environ["MODE"], float(os.environ["UNTIL"])
QUIET_SECONDS = 4.0
PROCESSES = 8
MOST_FORKS = 20_000
MOST_BYTES = int(os.environ.get("MOST_BYTES", "0"))
MOST_LINES = 30_000_000
CHUNK = random.randbytes(1 << 20)


def going() -> bool:
    return time.time() < UNTIL


def spin() -> None:
    for _ in range(PROCESSES - 1):
        if os.fork() == 0:
            break
    while going():
        for _ in range(100_000):
            pass


def memory() -> None:
    kept = []
    while going() and len(kept) < 4096:
        kept.append(bytearray(CHUNK))


def fork() -> None:
    """Every process of it makes more, as long as it may: the container's own limit is what stops it."""
    forks = 0
    while going() and forks < MOST_FORKS:
        try:
            forks += 1
            if os.fork() == 0:
                forks = MOST_FORKS - (MOST_FORKS - forks) // 2
        except OSError:
            time.sleep(0.01)
    while going():
        time.sleep(0.1)


def disk() -> None:
    """Fills what it may, then writes the same anew."""
    while going():
        written = 0
        with Path("/big").open("wb") as file:
            while going() and written < MOST_BYTES:
                written += file.write(CHUNK)


def logs() -> None:
    line = "x" * 199 + "\n"
    lines = 0
    while going() and lines < MOST_LINES:
        sys.stdout.write(line * 100)
        lines += 100


def main() -> None:
    time.sleep(QUIET_SECONDS)
    {"spin": spin, "memory": memory, "fork": fork, "disk": disk, "logs": logs}.get(MODE, lambda: None)()
    while True:
        time.sleep(3600)


main()
