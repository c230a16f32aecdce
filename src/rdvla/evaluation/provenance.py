"""Which policy an evaluation ran, on what hardware, by which command."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from rdvla import __version__
from rdvla.evaluation.config import policy_name
from rdvla.policy import RDVLAPolicy


def describe_policy(policy: RDVLAPolicy, path: str) -> dict[str, Any]:
    """Return where a policy came from, and its sizes (parameters, blocks that one iteration runs)."""
    return {
        "path": policy_name(path),
        "parameters": sum(p.numel() for p in policy.parameters()),
        "head_parameters": sum(p.numel() for p in policy.head.parameters()),
        "core_blocks": len(policy.config.head.levels_by_part.get("core", ())) or 1,  # all of a head without
    }


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
