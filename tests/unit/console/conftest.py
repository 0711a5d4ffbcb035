"""What the console's unit tests run on."""

from __future__ import annotations

import pytest

from lain_shared.testing import MemoryStore
from tests.unit.console.builders import Bench


@pytest.fixture
def bench() -> Bench:
    """One app on a store in memory, stepped by hand."""
    return Bench(MemoryStore())
