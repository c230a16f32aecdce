"""Loads a head's code that was compiled ahead of time."""

from __future__ import annotations

from pathlib import Path

import torch

from rdvla.engine import gemv
from rdvla.engine.aoti.description import (
    FORMER_KERNEL,
    KERNEL,
    SUFFIX,
    Description,
    configuration_of,
    read_description,
)
from rdvla.engine.aoti.functions import CODA_READS, coda_form, function_name, has_kernel
from rdvla.engine.aoti.steps import PackagedSteps
from rdvla.engine.engine import Engine
from rdvla.errors import RDVLAError
from rdvla.hashing import fingerprint
from rdvla.heads.recurrent.model import RecurrentDepthHead


def load_compiled(head: RecurrentDepthHead, folder: Path | str) -> Engine:
    """Return an engine that runs a head with exported code.

    The folder holds native code, which runs with all rights of this process: load your own exports only.
    Digests find damage, not malice.

    Args:
        head: with the exported weights; the code holds a packed copy of them.
        folder: written by `rdvla export --format aoti`.

    Raises:
        RDVLAError: the code is for other weights, another version of torch or another processor, or a file
            is missing or damaged.
    """
    folder = Path(folder)
    description, files = read_description(folder)
    description.check_machine()
    _check_head(head, description)
    needed = _function_names(head, description)
    kernel = [FORMER_KERNEL if FORMER_KERNEL in files else KERNEL] if has_kernel(head) else []
    for file in (*kernel, *(f"{function}{SUFFIX}" for function in needed)):
        if file not in files:
            raise RDVLAError(f"{folder} lacks {file}: export the head again")
    from torch._inductor import aoti_load_package

    try:
        for file in kernel:
            gemv.register(folder / file)
        functions = {function: aoti_load_package(str(folder / f"{function}{SUFFIX}")) for function in needed}
    except (RuntimeError, OSError) as error:
        raise RDVLAError(
            f"torch cannot load {folder}: {error}\nExport the head again, on this computer"
        ) from error
    return Engine(head, PackagedSteps(head, functions, tokens=description.tokens))


def _check_head(head: RecurrentDepthHead, description: Description) -> None:
    device, dtype = head.gamma_init.device, head.gamma_init.dtype
    if device.type != "cpu" or dtype != torch.float32:
        raise RDVLAError(f"compiled code is for a head on the CPU in float32, not on {device} in {dtype}")
    if configuration_of(head.config) != description.head:
        raise RDVLAError("the code was compiled for a head of another configuration: export this head")
    features = {f"{kind}.{level}" for kind in ("vision", "latents") for level in head.config.levels}
    if description.tokens.keys() != features | {"proprio"}:
        strays = sorted(description.tokens.keys() ^ (features | {"proprio"}))
        raise RDVLAError(
            f"the description of the code does not fit: tokens of {strays}. Export the head again"
        )
    if fingerprint(head) != description.weights:
        raise RDVLAError("the code was compiled for a head with other weights: export this head")


def _function_names(head: RecurrentDepthHead, description: Description) -> list[str]:
    forms = {coda_form(head, description.tokens, reads) for reads in CODA_READS}
    per_form = [
        function_name(function, form)
        for form in forms
        for function in ("project", "decode")
        if form or function == "decode"
    ]
    return ["encode", "iterate", *sorted(per_form)]
