"""`compiled.json`: which head a folder of compiled code is for, and what the code needs to run."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rdvla.errors import RDVLAError
from rdvla.files import write_json
from rdvla.head import HeadConfig
from rdvla.head.config import TRAINING_FIELDS
from rdvla.runtime.description import check_files, digest, read_content

NAME = "compiled.json"
FORMAT = "rdvla-aoti"
SCHEMA = 1
SUFFIX = ".pt2"
KERNEL = "skinny.so"  # the library of `rdvla.head.skinny`


@dataclass(frozen=True)
class Description:
    """Everything about a compiled head but its code."""

    precision: str  # of matrix products: fp32, bf16
    weights: str  # fingerprint of the head
    head: Mapping[str, Any]  # its configuration, as `configuration_of`
    tokens: Mapping[str, int]  # number of tokens by name of the feature
    torch: str  # version
    processor: tuple[str, ...]  # system, architecture and abilities, as `this_processor`

    def write(self, folder: Path) -> None:
        """Write `compiled.json` with digests of all compiled code in the folder."""
        code = sorted(path for path in folder.iterdir() if path.suffix == SUFFIX or path.name == KERNEL)
        files = {path.name: digest(path) for path in code}
        write_json(folder / NAME, {"format": FORMAT, "schema": SCHEMA, "files": files} | asdict(self))

    def check_machine(self) -> None:
        """Raise `RDVLAError` where the code cannot run here."""
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
    """Read `compiled.json` and check that the files it names are whole: the description, and their names.

    Raises:
        RDVLAError: it is missing, damaged or of another version, or a file is missing or differs.
    """
    path = folder / NAME
    content = read_content(path, FORMAT, SCHEMA, what="head", made_by="rdvla export --format aoti")
    files = content.pop("files", None)
    description = _decode(content, path)
    if not isinstance(files, dict) or not files:
        raise _damaged(path, "it must name the files of the export")
    check_files(folder, files)
    return description, frozenset(files)


def configuration_of(config: HeadConfig) -> dict[str, Any]:
    """What of a configuration decides what a head's weights mean, as JSON holds it."""
    values = {key: value for key, value in asdict(config).items() if key not in TRAINING_FIELDS}
    decoded: dict[str, Any] = json.loads(json.dumps(values))
    return decoded


def this_processor() -> tuple[str, ...]:
    """Operating system, architecture, and what the processor can do."""
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
