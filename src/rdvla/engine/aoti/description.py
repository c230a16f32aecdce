"""`compiled.json`: the head that compiled code is for, and what the code needs to run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rdvla.errors import RDVLAError
from rdvla.heads import HeadConfig
from rdvla.manifest import read_manifest, write_manifest

NAME = "compiled.json"
FORMAT = "rdvla-aoti"
SCHEMA = 1
SUFFIX = ".pt2"
KERNEL = "gemv.so"  # the library of `rdvla.engine.gemv`
FORMER_KERNEL = "skinny.so"  # its name in older exports


@dataclass(frozen=True)
class Description:
    """Everything about a compiled head except its code."""

    precision: str  # of matrix products: fp32, bf16
    weights: str  # fingerprint of the head
    head: Mapping[str, Any]  # its configuration, from `configuration_of`
    tokens: Mapping[str, int]  # feature name -> number of tokens
    torch: str  # version
    processor: tuple[str, ...]  # system, architecture and abilities, from `this_processor`

    def write(self, folder: Path) -> None:
        """Write `compiled.json` with digests of all compiled code in the folder."""
        code = [path for path in folder.iterdir() if path.suffix == SUFFIX or path.name == KERNEL]
        write_manifest(folder / NAME, asdict(self), form=FORMAT, schema=SCHEMA, files=code)

    def check_machine(self) -> None:
        """Raise `RDVLAError` if the code cannot run here."""
        if self.torch != torch.__version__:
            raise RDVLAError(
                f"the head was compiled with torch {self.torch}, this is {torch.__version__}: install that "
                "version, or export the head again"
            )
        lacking = sorted(set(self.processor) - set(this_processor()))
        if lacking:
            raise RDVLAError(
                f"the head was compiled for a processor with {', '.join(lacking)}, which this one lacks: "
                "export the head again on a computer like this one"
            )


def read_description(folder: Path) -> tuple[Description, frozenset[str]]:
    """Read `compiled.json` and check that the files it names are whole; return it and the files' names.

    Raises:
        RDVLAError: it is missing, damaged or of another version, or a file is missing or differs.
    """
    path = folder / NAME
    content, files = read_manifest(path, FORMAT, [SCHEMA], what="head", made_by="rdvla export --format aoti")
    del content["schema"]
    return _decode(content, path), frozenset(files)


def configuration_of(config: HeadConfig) -> dict[str, Any]:
    """Return the part of a configuration that decides what a head's weights mean, as JSON holds it."""
    values = {key: value for key, value in asdict(config).items() if key not in config.training_fields}
    decoded: dict[str, Any] = json.loads(json.dumps(values))
    return decoded


def this_processor() -> tuple[str, ...]:
    """Return operating system, architecture, and the processor's abilities."""
    found = {platform.system(), platform.machine()}
    if hasattr(torch.cpu, "get_capabilities"):
        for name, able in torch.cpu.get_capabilities().items():
            found |= {name} if able is True else {f"{name}={able}"} if able else set()  # such as its widths
    else:  # an older torch, which tells no more than this
        found.add(torch.backends.cpu.get_cpu_capability())
    return tuple(sorted(found))


def _decode(content: dict[str, Any], path: Path) -> Description:
    known = {field.name for field in fields(Description)}
    if content.keys() != known:
        name = min(content.keys() ^ known)
        raise _damaged(path, f"{name!r} is missing or unknown")
    processor, tokens = content["processor"], content["tokens"]
    types = {"processor": list, "head": dict, "tokens": dict}
    for name, value in content.items():
        if not isinstance(value, types.get(name, str)):
            raise _damaged(path, f"{name!r} has the wrong type")
    if not all(isinstance(item, str) for item in processor):
        raise _damaged(path, "'processor' must hold names")
    if not all(isinstance(count, int) for count in tokens.values()):
        raise _damaged(path, "'tokens' must hold numbers")
    return Description(**content | {"processor": tuple(processor)})


def _damaged(path: Path, what: str) -> RDVLAError:
    return RDVLAError(f"{path} is damaged: {what}. Export the head again")
