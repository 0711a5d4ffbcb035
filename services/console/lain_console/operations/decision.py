"""What the next step of an operation is decided on, and what a step is: the input and the outcome of ``advance``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lain_console.operations.claims import ClaimPlan
from lain_console.state import Claims, Scene
from lain_shared.model.app import App, HistoryRecord, Operation, Release
from lain_shared.model.pod import Desired
from lain_shared.model.volume import VolumeDeletion

LOOK_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class View:
    """All that the next step is decided on."""

    scene: Scene
    operation: Operation
    release: Release | None
    """The release the operation moves to; None: undeploy."""
    now: float
    counts_from: float = 0.0
    """Deadlines do not count time before this: etcd was away, or nobody drove the operation."""
    progress: Mapping[str, float] = field(default_factory=dict)
    """proc → when its driver saw it make progress last, by the same clock as ``now``: other machines' clocks decide nothing."""
    claims: Claims = field(default_factory=Claims)
    """Every claim there is; needed in ``releasing`` only."""
    volumes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """node → the app's volumes on it; needed in ``releasing`` only, to have them deleted."""

    @property
    def app(self) -> App:
        return self.scene.app.value


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now; look again when something changes, or after this long."""

    seconds: float = LOOK_AGAIN_SECONDS


@dataclass(frozen=True, slots=True)
class Move:
    """One transaction. ``operation`` None: it ends, and ``history`` and ``app`` are what remains of it."""

    operation: Operation | None
    put: tuple[Desired, ...] = ()
    delete: tuple[str, ...] = ()
    """Procs whose ``desired`` goes."""
    app: App | None = None
    history: HistoryRecord | None = None
    claims: ClaimPlan = field(default_factory=ClaimPlan)
    """What becomes of the claims, and as what they were seen."""
    volume_deletions: tuple[VolumeDeletion, ...] = ()


Decision = Move | Wait
