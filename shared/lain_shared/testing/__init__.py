"""What tests share: a store in memory, clocks that are moved by hand, and waiting for a condition instead of sleeping."""

from lain_shared.testing.clocks import ManualClock
from lain_shared.testing.memory_store import MemoryStore
from lain_shared.testing.waiting import eventually

__all__ = ["ManualClock", "MemoryStore", "eventually"]
