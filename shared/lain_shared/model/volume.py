"""Volumes that are no longer wanted: an order to a node to delete them. Written by the console."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VolumeDeletion:
    """``volume-deletions/<node>/<app>``: delete these, once nothing of the app is on the node. Gone when they are gone.

    While it stands nothing of the app is started anywhere.
    """

    node: str
    app: str
    volumes: tuple[str, ...]
    """As ``nodes-state/<node>`` names them: ``<app>.<proc>-<n>``."""
    who: str
    ordered_at: float
