"""What decides the last bits of results: versions of packages, the processor's instructions, threads.

The same sum in another order rounds in another way. So equal options, data and seed give equal bits only if
all of this is equal too.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("rdvla", "torch", "transformers", "av")


def arithmetic(device: torch.device | str) -> dict[str, str | int]:
    """Return what this process computes with on a device, as plain values."""
    device = torch.device(device)
    used: dict[str, str | int] = {}
    for package in PACKAGES:
        try:
            used[package] = version(package)
        except PackageNotFoundError:  # an extra that is not installed
            continue
    used["processor"] = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    used["threads"] = torch.get_num_threads()
    used["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return used


def differing(earlier: Sequence[Mapping[str, Any]], now: Mapping[str, Any]) -> str:
    """Say what was different earlier: ``torch 2.12.0 (now 2.13.0), threads 2 (now 1)``; empty: nothing was.

    Args:
        earlier: what something was computed by, each as `arithmetic` returns it, perhaps with more.
        now: the same of this process.
    """
    found = {
        f"{name} {there[name]} (now {now[name]})"
        for there in earlier
        for name in now
        if name in there and there[name] != now[name]
    }
    unknown = {"what an earlier version of rdvla did not record"} if not all(earlier) else set()
    return ", ".join(sorted(found) + sorted(unknown))
