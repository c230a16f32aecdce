"""Fair timings on a busy machine: interleaved runs, medians with spread, paired ratios."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float  # 25th percentile
    high: float  # 75th percentile

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Summarise samples; a single sample is its own median and quartiles."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)


def interleave(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Time every candidate once per round, each round starting with another; return name -> milliseconds.

    A slow moment of the machine hits all candidates, so samples of a round can be compared as a pair.
    """
    names = list(candidates)
    for _ in range(warmup):
        for name in names:
            candidates[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            before = time.perf_counter()
            candidates[name]()
            samples[name].append(1000 * (time.perf_counter() - before))
    return samples


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """Return how many times longer `slow` takes: the spread of the ratios within each round."""
    return Spread.of([a / b for a, b in zip(slow, fast, strict=True)])


def hardware() -> dict[str, Any]:
    """Describe the machine and the software that a timing depends on."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def run_fresh(module: str, *arguments: str) -> str:
    """Run `python -m module arguments` in a new process, and return its output."""
    command = [sys.executable, "-m", module, *arguments]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


def reset_peak_memory() -> float:
    """Start a new measurement of this process's peak memory; return its memory now, MiB (Linux, glibc).

    Freed memory that malloc kept goes back to the system first, because its reuse would not show.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def peak_memory() -> float:
    """Return the peak of resident memory since `reset_peak_memory`, MiB (Linux)."""
    return _status_mib("VmHWM")


def _status_mib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {name}; memory is measured on Linux only")


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
