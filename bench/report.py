"""What a proof found, in one form for all: raw samples, medians, p95s, peers and floors of the same run, each target and if it was met.

Written to ``bench/results/<name>.json``, whole and at once, so that a run cut short leaves the last whole result alone.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]


def quantile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank quantile: the least sample that is not below ``share`` of them (0.95: p95). NaN for none."""
    if not samples:
        return math.nan
    return sorted(samples)[max(0, math.ceil(share * len(samples)) - 1)]


@dataclass(frozen=True, slots=True)
class Target:
    """One promise of a case: the value seen and the limit it must keep."""

    says: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """A value that is no number (nothing was measured) meets nothing."""
        if math.isnan(self.value):
            return False
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


@dataclass(slots=True)
class Case:
    """One thing measured, for each contender: ``lain``, its peers, the floor."""

    name: str
    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, contender: str, *values: float) -> None:
        self.samples.setdefault(contender, []).extend(values)

    def median(self, contender: str = "lain") -> float:
        found = self.samples.get(contender)
        return statistics.median(found) if found else math.nan

    def p95(self, contender: str = "lain") -> float:
        return quantile(self.samples.get(contender, ()), 0.95)

    def worst(self, contender: str = "lain") -> float:
        return max(self.samples.get(contender, ()), default=math.nan)

    def ratio(self, peer: str) -> float:
        """Our median by the peer's."""
        theirs = self.median(peer)
        return self.median() / theirs if theirs else math.nan

    def target(self, says: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> bool:
        """Hold ``value`` against its limit; says whether it was kept."""
        target = Target(says, value, at_most, at_least)
        self.targets.append(target)
        return target.met

    def note(self, text: str) -> None:
        """Something seen that the numbers do not say: a failure by name, a condition of the run."""
        self.notes.append(text)

    def shown(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "contenders": {
                name: {
                    "median": _rounded(statistics.median(values)),
                    "p95": _rounded(quantile(values, 0.95)),
                    "samples": [_rounded(value) for value in values],
                }
                for name, values in self.samples.items()
                if values
            },
            "targets": [
                {"says": one.says, "value": _rounded(one.value), "met": one.met}
                | ({"at_most": one.at_most} if one.at_most is not None else {})
                | ({"at_least": one.at_least} if one.at_least is not None else {})
                for one in self.targets
            ],
            "notes": self.notes,
        }


@dataclass(slots=True)
class Proof:
    """One run of a proof. ``case`` is where its measurements go; ``write`` keeps them."""

    name: str
    options: dict[str, Any]
    cases: dict[str, Case] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """What else a reader should know: seeds, counts, versions of peers."""
    _began: float = field(default_factory=time.monotonic)
    _date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    _load: tuple[float, float, float] = field(default_factory=os.getloadavg)

    def case(self, name: str, unit: str = "") -> Case:
        """The case of that name, made when first asked for."""
        return self.cases.setdefault(name, Case(name, unit))

    def say(self, text: str) -> None:
        """Progress, for whoever watches."""
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", file=sys.stderr, flush=True)

    @property
    def met(self) -> bool:
        """Every target of every case, and there is one at least."""
        targets = [target for case in self.cases.values() for target in case.targets]
        return bool(targets) and all(target.met for target in targets)

    def shown(self) -> dict[str, Any]:
        return {
            "proof": self.name,
            "met": self.met,
            **_commit(),
            "date": self._date,
            "seconds": round(time.monotonic() - self._began, 1),
            "machine": _machine(),
            "load_at_start": [round(value, 2) for value in self._load],
            "options": self.options,
            "facts": self.facts,
            "cases": [case.shown() for case in self.cases.values()],
        }

    def write(self, folder: Path = RESULTS) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        new = path.with_suffix(".json.new")
        new.write_text(json.dumps(self.shown(), indent=1, ensure_ascii=False) + "\n")
        new.replace(path)
        return path

    def summary(self) -> str:
        """The same for a person: a line a contender, a line a target."""
        lines: list[str] = []
        for case in self.cases.values():
            lines.append(f"{case.name} [{case.unit}]" if case.unit else case.name)
            for name, values in case.samples.items():
                if values:
                    middle, high = statistics.median(values), quantile(values, 0.95)
                    lines.append(f"    {name:14} median {middle:<10.4g} p95 {high:<10.4g} of {len(values)}")
            for one in case.targets:
                limit = f"≤ {one.at_most:g}" if one.at_most is not None else f"≥ {one.at_least:g}"
                lines.append(f"    {'met   ' if one.met else 'MISSED'} {one.says}: {one.value:.4g} ({limit})")
            lines += [f"    {note}" for note in case.notes[:20]]
        lines.append(f"{self.name}: {'every target met' if self.met else 'NOT every target met'}")
        return "\n".join(lines)


def _rounded(value: float) -> float | None:
    """To six digits; what is no number is null in JSON."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def _commit() -> dict[str, Any]:
    try:
        commit = _said("git", "rev-parse", "HEAD")
        changed = [line for line in _said("git", "status", "--porcelain").splitlines() if "bench/results/" not in line]
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "uncommitted_changes": True}
    return {"commit": commit, "uncommitted_changes": bool(changed)}


def _machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpu = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _said(*argv: str) -> str:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
