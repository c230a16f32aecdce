"""`rdvla bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rdvla
from rdvla.errors import RDVLAError


def run(*arguments: str) -> None:
    """Measure the head's latency and memory on this machine against a plain loop."""
    checkout = Path(rdvla.__file__).parents[2]
    if not (checkout / "benchmarks" / "head.py").exists():
        raise RDVLAError(
            "the benchmarks are part of the source checkout, not of the installed package: "
            "clone the repository and run `make bench` in it"
        )
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.head", *arguments], cwd=checkout, check=False
    )
    if finished.returncode:
        raise RDVLAError(f"the benchmark ended with exit status {finished.returncode}; see above")
