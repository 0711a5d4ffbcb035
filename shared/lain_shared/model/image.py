"""Images that stay on the nodes that have them. Written by the console."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeptImages:
    """``kept-images/<app>/<n>``: no node removes these. There as long as the app is deployed and release ``n`` can be gone back to.

    All that agents learn of releases: those hold environments.
    """

    app: str
    release: int
    images: tuple[str, ...]
    """As templates name them: ``repository@sha256:…``."""
