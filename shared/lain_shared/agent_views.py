"""What an agent's API answers: the nouns that its daemon encodes and the SDK decodes, once for both."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeVolume:
    """The data of one instance on this node."""

    name: str
    """``<app>.<proc>-<instance>``."""
    path: str
    missing: bool
    """It was there, and is gone: the instance is not started without it."""


@dataclass(frozen=True, slots=True)
class LossView:
    """The data of one instance is lost, and somebody said so."""

    volume: str
    confirmed: bool = True
