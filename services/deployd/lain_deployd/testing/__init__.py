"""What tests of deployd share: an engine in memory that keeps the real one's contract (``tests/contract/test_docker.py``)."""

from lain_deployd.testing.fake_engine import FakeEngine

__all__ = ["FakeEngine"]
