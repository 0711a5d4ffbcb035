"""A flood of connections through the router, from a process of its own: so many at a time, each with a request that is never answered.

Bounded: by ``--connections`` held at a time, by new ones a second, and by ``--seconds``, after which it ends by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

NEW_A_SECOND = 3000.0


@contextlib.contextmanager
def flooding(address: str, port: int, host: str, *, connections: int, seconds: float) -> Iterator[None]:
    """While the block runs, ``seconds`` at most. It says what became of its connections when it ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.stage.flood", "--address", address, "--port", str(port), "--connections", str(connections),
         "--seconds", str(seconds), host],
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def flood(asked: argparse.Namespace) -> Counter[str]:
    became: Counter[str] = Counter()
    ends = time.monotonic() + asked.seconds
    request = f"GET / HTTP/1.1\r\nHost: {asked.host}\r\n\r\n".encode()
    held: set[asyncio.Task[None]] = set()

    async def one() -> None:
        try:
            async with asyncio.timeout(max(0.1, ends - time.monotonic())):
                reader, writer = await asyncio.open_connection(asked.address, asked.port)
                try:
                    writer.write(request)
                    head = await reader.read(64)
                    became[head[9:12].decode(errors="replace") or "closed"] += 1
                finally:
                    writer.close()
        except TimeoutError:
            became["held to the end"] += 1
        except OSError as error:
            became[type(error).__name__] += 1

    while time.monotonic() < ends:
        for _ in range(int(NEW_A_SECOND / 50)):
            if len(held) < asked.connections:
                task = asyncio.create_task(one())
                held.add(task)
                task.add_done_callback(held.discard)
        await asyncio.sleep(0.02)
    await asyncio.gather(*held, return_exceptions=True)
    return became


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("host")
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"flood of {asked.host}: {dict(asyncio.run(flood(asked)))}", file=sys.stderr)


if __name__ == "__main__":
    main()
