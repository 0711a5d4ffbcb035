"""Settings: everything wrong is said at once, by variable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from lain_shared.settings import InvalidSettings, read_settings


@dataclass(frozen=True)
class Example:
    etcd: tuple[str, ...]
    port: int = 1
    tls_dir: Path | None = None
    quick: bool = False
    ratio: float = 0.5


def test_values_come_from_the_environment() -> None:
    environ = {
        "X_ETCD": "a:1, b:2",
        "X_PORT": "7",
        "X_TLS_DIR": "/etc/x",
        "X_QUICK": "Yes",
        "X_RATIO": "1.5",
        "Y_PORT": "?",
    }
    assert read_settings(Example, "X_", environ) == Example(("a:1", "b:2"), 7, Path("/etc/x"), True, 1.5)


def test_an_empty_value_means_the_default() -> None:
    assert read_settings(Example, "X_", {"X_ETCD": "a:1", "X_PORT": "", "X_TLS_DIR": ""}) == Example(("a:1",))


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_settings(Example, "X_", {"X_PORT": "seven", "X_QUICK": "perhaps", "X_PROT": "7"})
    for word in ("X_ETCD", "X_PORT='seven'", "X_QUICK='perhaps'", "true or false", "X_PROT"):
        assert word in str(caught.value)
