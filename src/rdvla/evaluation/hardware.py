"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

import torch

from rdvla import __version__


def describe_hardware() -> dict[str, str | int]:
    """CPU model, cores, Python, torch and rdvla versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rdvla": __version__,
    }


def command_line() -> str:
    """The command that runs, with the program's folder left out."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
