"""Asks the router again and again, and remembers when it first answered otherwise than before: "served from then on".

One keep-alive connection in a thread of its own, every few milliseconds; the time between two questions is the error of what it says.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

EVERY_SECONDS = 0.004


@dataclass(slots=True)
class Watch:
    """``first``: each answer (status and body) and when it came first, in unix seconds."""

    first: dict[tuple[int, str], float] = field(default_factory=dict)
    asked: int = 0
    broken: int = 0
    """Questions that got no answer."""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _ended: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextlib.contextmanager
    def over(cls, address: str, port: int, host: str, path: str = "/fast") -> Iterator[Watch]:
        """Ask until the block ends."""
        watch = cls()
        thread = threading.Thread(target=watch._ask, args=(address, port, host, path), daemon=True)
        thread.start()
        try:
            yield watch
        finally:
            watch._ended.set()
            thread.join(10)

    def since(self, text: str, seconds: float) -> float | None:
        """When an answer 200 that holds ``text`` came first, waiting ``seconds`` at most; None: it did not come."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = [at for (status, body), at in self.first.items() if status == 200 and text in body]
                if found:
                    return min(found)
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    return None

    def _ask(self, address: str, port: int, host: str, path: str) -> None:
        connection = http.client.HTTPConnection(address, port, timeout=10)
        while not self._ended.is_set():
            self.asked += 1
            try:
                connection.request("GET", path, headers={"Host": host})
                answer = connection.getresponse()
                said = (answer.status, answer.read().decode(errors="replace"))
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection.close()
            else:
                if said not in self.first:
                    with self._changed:
                        self.first[said] = time.time()
                        self._changed.notify_all()
            self._ended.wait(EVERY_SECONDS)
        connection.close()
