"""Runs one proof by name, keeps what it found, and ends 0 only when every target was met.

python -m bench                     the proofs there are
python -m bench deploy-time         run one for the record: bench/results/deploy-time.json
python -m bench deploy-time --quick a short run, to see that it works; nothing is kept
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.report import Proof

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a proof. ``rounds``: 0 means as many as it takes for the record; ``quick``: only to see that it works."""

    quick: bool = False
    rounds: int = 0
    seed: int = 0


def proofs() -> dict[str, str]:
    """Name → what it shows, of every module here that has a ``run``."""
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.py")):
        if "\ndef run(" in (text := path.read_text()) or "\nasync def run(" in text:
            name = path.stem.replace("_", "-")
            found[name] = text.removeprefix('"""').partition("\n")[0].removesuffix('"""')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", nargs="?", choices=proofs())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.name is None:
        for name, says in proofs().items():
            print(f"{name:20} {says}")
        return 0
    options = Options(asked.quick, asked.rounds, asked.seed)
    module = importlib.import_module(f"bench.{asked.name.replace('-', '_')}")
    proof = Proof(asked.name, asdict(options))
    done = module.run(proof, options)
    if inspect.iscoroutine(done):
        asyncio.run(done)
    print(proof.summary())
    if not options.quick:
        print(f"kept in {proof.write().relative_to(FOLDER.parent)}")
    return 0 if proof.met else 1


if __name__ == "__main__":
    sys.exit(main())
