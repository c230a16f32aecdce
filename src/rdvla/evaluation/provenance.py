"""Which policy an evaluation ran, on what hardware, by which command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from rdvla import __version__
from rdvla.hashing import hash_tensors
from rdvla.policy import RDVLAPolicy
from rdvla.policy.run_folder import policy_name


def describe_policy(policy: RDVLAPolicy, path: str) -> dict[str, Any]:
    """Return where a policy came from, its sizes, and a hash of its units and of how it fits images."""
    return {
        "path": policy_name(path),
        "parameters": sum(p.numel() for p in policy.parameters()),
        "head_parameters": sum(p.numel() for p in policy.head.parameters()),
        "core_blocks": len(policy.config.head.levels_by_part.get("core", ())) or 1,  # all of a head without
        "preparation": _preparation(policy),
    }


def _preparation(policy: RDVLAPolicy) -> str:
    """Return a short hash of what stands between the weights and the robot: images, state and actions."""
    fits = policy.config.fits
    told: dict[str, Any] = {
        "images": {camera: [fit.size, fit.how] for camera, fit in fits.fits.items()},
        "recorded": fits.sizes,
    }
    ends = []
    for name, normalizer in (("action", policy.action_normalizer), ("state", policy.state_normalizer)):
        told[name] = [normalizer.keep, normalizer.clip, normalizer.opening]
        ends += [(f"{name}.low", normalizer.low), (f"{name}.high", normalizer.high)]
    return hash_tensors(ends, start=json.dumps(told, sort_keys=True).encode())


def describe_hardware() -> dict[str, str | int]:
    """Return CPU model, cores, and the versions of Python, torch and rdvla."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rdvla": __version__,
    }


def command_line() -> str:
    """Return the command that runs, without the program's folder."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
