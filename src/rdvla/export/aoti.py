"""Compiles a head ahead of time: native code that needs torch but no compiler, and starts without a wait."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rdvla.control import Stop
from rdvla.engine import Engine, gemv, load_compiled
from rdvla.engine.aoti.description import KERNEL, NAME, SUFFIX, Description, configuration_of, this_processor
from rdvla.engine.aoti.functions import has_kernel, make_functions, token_counts
from rdvla.engine.compiled import compiler_failures, not_compiled, products_in
from rdvla.export.folder import Report, check_precision, file_sizes, new_export
from rdvla.export.quiet import quiet
from rdvla.export.verify import DEPTH, Check, random_observation
from rdvla.hashing import fingerprint
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.types import Prediction

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # precision -> of matrix products
OPTIONS = {
    "freezing": True,  # weights laid out as the processor's products want them
    "cpp.dynamic_threads": True,  # as many as torch has when it runs, not when it was compiled
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
    stop: Stop,
    precision: str = "fp32",
) -> Report:
    """Compile a head for the processor of this computer, and compare it with the head before it is written.

    Takes two to three minutes at the paper's size.

    Args:
        head: of any policy.
        output: folder to make; an older export makes way.
        example: features like those to come: their numbers of tokens are compiled in.
        stop: a rule under which the two are compared, among others.
        precision: of the matrix products; ``bf16`` is faster and moves actions by about 1e-2.

    Raises:
        ConfigError: there is no such precision.
        RDVLAError: torch cannot compile here, `output` holds something else, or a float32 export does not act
            as the head; nothing is written then.
    """
    check_precision(precision, tuple(DTYPES))
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
        checks = _compare(plain, folder, example, stop)
        if precision == "fp32":
            for check in checks:
                check.require()
    return Report(output, precision, file_sizes(output), checks)


class _Module(nn.Module):
    """A function of tensors with the weights that it reads."""

    def __init__(self, head: RecurrentDepthHead, function: Callable[..., object], dtype: torch.dtype) -> None:
        super().__init__()
        self.head = head
        self.function = function
        self.dtype = dtype

    def forward(self, *tensors: Tensor) -> object:
        with products_in(self.dtype, "cpu"):  # inside, or the exported graph does not know of it
            return self.function(*tensors)


def _compile(plain: RecurrentDepthHead, example: Context, folder: Path, dtype: torch.dtype) -> None:
    from torch._inductor.utils import fresh_cache  # importing the compiler takes seconds

    try:
        head = _with_kernel(plain, folder, dtype)
        functions = make_functions(head, example, dtype=dtype)
        # The compiler would leave a copy of the weights in its cache.
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as cache, fresh_cache(dir=cache):
            for name, function in functions.items():
                module = _Module(head, function.call, dtype)
                _compile_function(module, function.example, folder / f"{name}{SUFFIX}")
    except compiler_failures() as error:
        raise not_compiled(error, "`--format onnx` needs none") from error


def _with_kernel(plain: RecurrentDepthHead, folder: Path, dtype: torch.dtype) -> RecurrentDepthHead:
    """Return the head with products of few rows in the GEMV kernel, whose library goes into the folder."""
    if not has_kernel(plain):
        return plain
    shutil.copyfile(gemv.build(), folder / KERNEL)
    return gemv.gemv_copy(plain, dtype)


def _compile_function(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        module,
        tuple(tensor.clone() for tensor in example),  # one tensor twice is one input
        dynamic_shapes=(tuple({0: batch} for _ in example),),  # of one argument that takes them all
    )
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(OPTIONS))


def _compare(head: RecurrentDepthHead, folder: Path, example: Context, stop: Stop) -> list[Check]:
    """Compare the head with the folder's code, in a batch and alone, under stop rules of every kind."""
    stops = [Stop.fixed(DEPTH), stop, Stop("action_change"), Stop("deferred_action_change")]
    start = head.initial_state(example.batch_size, torch.Generator().manual_seed(0))

    def predict(engine: Engine, stop: Stop) -> list[Prediction]:
        return [
            engine.predict(example.select(slice(size)), stop=stop, initial_state=start[:size])
            for size in sorted({1, example.batch_size})
        ]

    plain, compiled = Engine(head), load_compiled(head, folder)
    return [compare(each, predict(compiled, each), predict(plain, each)) for each in dict.fromkeys(stops)]


def compare(stop: Stop, found: list[Prediction], expected: list[Prediction]) -> Check:
    """Return how far predictions are apart, by their largest difference."""
    differences = [
        float((one.actions - other.actions).abs().max()) for one, other in zip(found, expected, strict=True)
    ]
    return Check(
        stop=stop.describe(),
        difference=float(torch.tensor(differences).max()),  # NaN if any is
        depths=tuple(depth for each in found for depth in each.depth.tolist()),
        expected=tuple(depth for each in expected for depth in each.depth.tolist()),
    )
