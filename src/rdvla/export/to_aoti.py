"""Exports a head as native code, compiled ahead of time: it needs torch but no compiler, and no wait."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rdvla.control import Stop, as_stop
from rdvla.engine import Engine, gemv, load_compiled
from rdvla.engine.aoti.description import KERNEL, NAME, SUFFIX, Description, configuration_of, this_processor
from rdvla.engine.aoti.functions import has_kernel, make_functions, token_counts
from rdvla.engine.compiled import compiler_failures, not_compiled, products_in
from rdvla.export.comparison import compare_engines, random_observation
from rdvla.export.folder import Report, check_precision, file_sizes, new_export, require_checks
from rdvla.export.tracing import without_exporter_messages
from rdvla.hashing import fingerprint
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # precision -> dtype of matrix products
COMPILER_OPTIONS = {
    "freezing": True,  # lays weights out as the processor's products want them
    "cpp.dynamic_threads": True,  # as many threads as torch has when the code runs
}


def example_context(policy: RDVLAPolicy) -> Context:
    """Return the context of a random observation."""
    observation = random_observation(policy)
    state = policy.normalize_state(observation.state.to(policy.device))
    with torch.no_grad():
        context = policy.context_from(policy.frozen_inputs(observation), state)
    return context.to(device="cpu", dtype=torch.float32)


def export_compiled_head(
    head: RecurrentDepthHead,
    output: Path,
    *,
    example: Context,
    stop: int | str | Stop,
    precision: str = "fp32",
) -> Report:
    """Compile a head for this computer's processor, and compare the code with the head before it is written.

    Compiling takes two to three minutes at the paper's size.

    Args:
        head: of any policy.
        output: folder to make; an older export makes way.
        example: features with the numbers of tokens to compile for.
        stop: a rule (a depth, a rule, or its text) to compare the two under, in addition to the usual ones.
        precision: of the matrix products; ``bf16`` is faster and moves actions by about 1e-2.

    Raises:
        ConfigError: there is no such precision or rule.
        RDVLAError: torch cannot compile here, `output` holds something else, or a float32 export does not act
            like the head; nothing is written then.
    """
    check_precision(precision, tuple(DTYPES))
    stop = as_stop(stop)
    plain = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    example = example.to(device="cpu", dtype=torch.float32)
    with new_export(output, described_by=NAME) as folder:
        _compile(plain, example, folder, DTYPES[precision])
        Description(
            precision=precision,
            weights=fingerprint(plain),
            head=configuration_of(plain.config),
            tokens=token_counts(example, plain.config.levels),
            torch=torch.__version__,
            processor=this_processor(),
        ).write(folder)
        compiled = load_compiled(plain, folder)
        checks = compare_engines(compiled, Engine(plain), example=example, stop=stop)
        require_checks(checks, precision=precision)
    return Report(output, precision, file_sizes(output), checks)


class _Module(nn.Module):
    """A function of tensors, with the weights that it computes with."""

    def __init__(self, head: RecurrentDepthHead, function: Callable[..., object], dtype: torch.dtype) -> None:
        super().__init__()
        self.head = head
        self.function = function
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> object:
        with products_in(self.dtype, "cpu"):  # outside, the exported graph would not contain it
            return self.function(*tensors)


def _compile(plain: RecurrentDepthHead, example: Context, folder: Path, dtype: torch.dtype) -> None:
    from torch._inductor.utils import fresh_cache  # importing the compiler takes seconds

    try:
        head = _with_kernel(plain, folder, dtype)
        functions = make_functions(head, example, dtype=dtype)
        # The compiler would leave a copy of the weights in its cache.
        with (
            without_exporter_messages(),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as cache,
            fresh_cache(dir=cache),
        ):
            for name, function in functions.items():
                module = _Module(head, function.call, dtype)
                _compile_function(module, function.example, folder / f"{name}{SUFFIX}")
    except compiler_failures() as error:
        raise not_compiled(error, "`--format onnx` needs none") from error


def _with_kernel(plain: RecurrentDepthHead, folder: Path, dtype: torch.dtype) -> RecurrentDepthHead:
    """Return the head with its products in the GEMV kernel, if it can; copy the library into the folder."""
    if not has_kernel(plain):
        return plain
    shutil.copyfile(gemv.build(), folder / KERNEL)
    return gemv.gemv_copy(plain, dtype)


def _compile_function(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        module,
        tuple(tensor.clone() for tensor in example),  # a repeated tensor is one input
        dynamic_shapes=(tuple({0: batch} for _ in example),),  # `forward` takes all tensors as one argument
    )
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(COMPILER_OPTIONS))
