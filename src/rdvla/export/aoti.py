"""Compiles a head ahead of time: native code that runs where torch is and no compiler, without a wait."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from rdvla.export.aoti.description import KERNEL, NAME, SUFFIX, Description, configuration_of, this_processor
from rdvla.export.aoti.load import load_compiled
from rdvla.export.aoti.parts import has_kernel, make_parts, token_counts
from rdvla.export.folder import Report, check_precision, file_sizes, new_export
from rdvla.export.quiet import quiet
from rdvla.export.verify import DEPTH, Check, random_observation
from rdvla.head import (
    ActionChange,
    Context,
    DeferredActionChange,
    FixedDepth,
    Prediction,
    RecurrentDepthHead,
    StopRule,
    skinny,
)
from rdvla.head.compiled import Precision, compiler_failures, not_compiled, products_in, weight_type
from rdvla.policy import RDVLAPolicy, fingerprint

OPTIONS = {
    "freezing": True,  # weights laid out as the processor's products want them
    "cpp.dynamic_threads": True,  # as many as torch has when it runs, not when it was compiled
}


def example_context(policy: RDVLAPolicy) -> Context:
    """What the backbone makes of a random observation."""
    observation = random_observation(policy)
    state = policy.normalize_state(observation.state.to(policy.device))
    with torch.no_grad():
        context = policy.context_from(policy.frozen_inputs(observation), state)
    return _on_processor(context)


def export_compiled_head(
    head: RecurrentDepthHead,
    output: Path,
    *,
    example: Context,
    stop: StopRule,
    precision: Precision = "fp32",
) -> Report:
    """Compile a head for the processor of this computer, and compare it with the head before it is written.

    Takes two to three minutes at the paper's size.

    Args:
        head: of any policy.
        output: folder to make; an older export makes way.
        example: features as the head will get them: their numbers of tokens are compiled in.
        stop: a rule under which the two are compared, among others.
        precision: of the matrix products; ``bf16`` is faster and moves actions by some 1e-2.

    Raises:
        ConfigError: there is no such precision.
        RDVLAError: torch cannot compile here, `output` holds something else, or a float32 export does not act
            as the head; nothing is written then.
    """
    check_precision(precision, get_args(Precision))
    plain = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    example = _on_processor(example)
    with new_export(output, described_by=NAME) as folder:
        _compile(plain, example, folder, precision)
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

    def __init__(
        self, head: RecurrentDepthHead, function: Callable[..., object], precision: Precision
    ) -> None:
        super().__init__()
        self.head = head
        self.function = function
        self.precision = precision

    def forward(self, *tensors: Tensor) -> object:
        with products_in(self.precision, "cpu"):  # in here, or the exported graph does not know of it
            return self.function(*tensors)


def _compile(plain: RecurrentDepthHead, example: Context, folder: Path, precision: Precision) -> None:
    from torch._inductor.utils import fresh_cache  # importing the compiler takes seconds

    try:
        head = _with_kernel(plain, folder, precision)
        parts = make_parts(head, example, precision=precision)
        # The compiler would leave a copy of the weights in its cache.
        with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as cache, fresh_cache(dir=cache):
            for name, part in parts.items():
                _compile_part(
                    _Module(head, part.function, precision), part.example, folder / f"{name}{SUFFIX}"
                )
    except compiler_failures() as error:
        raise not_compiled(error, "`--format onnx` needs none") from error


def _with_kernel(plain: RecurrentDepthHead, folder: Path, precision: Precision) -> RecurrentDepthHead:
    """The head with products for few rows, whose library goes into the folder."""
    if not has_kernel(plain):
        return plain
    shutil.copyfile(skinny.build(), folder / KERNEL)
    return skinny.skinny_copy(plain, weight_type(precision))


def _compile_part(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        module,
        tuple(tensor.clone() for tensor in example),  # one tensor twice is one input
        dynamic_shapes=(tuple({0: batch} for _ in example),),  # of one argument that takes them all
    )
    aoti_compile_and_package(program, package_path=str(path), inductor_configs=dict(OPTIONS))


def _compare(head: RecurrentDepthHead, folder: Path, example: Context, stop: StopRule) -> list[Check]:
    """The head as it is and with the code of the folder, in a batch and alone, under rules of each kind."""
    rules: list[StopRule] = [FixedDepth(DEPTH), stop, ActionChange(), DeferredActionChange()]
    start = head.initial_state(example.batch_size, torch.Generator().manual_seed(0))

    def predict(rule: StopRule) -> list[Prediction]:
        return [
            head(_first(example, rows), depth=rule, initial_state=start[:rows])
            for rows in sorted({1, example.batch_size})
        ]

    expected = {rule: predict(rule) for rule in rules}  # once, where two are the same
    load_compiled(head, folder)
    return [_check(rule, predict(rule), before) for rule, before in expected.items()]


def _check(rule: StopRule, found: list[Prediction], expected: list[Prediction]) -> Check:
    differences = [
        float((one.actions - other.actions).abs().max()) for one, other in zip(found, expected, strict=True)
    ]
    return Check(
        rule=rule.describe(),
        difference=float(torch.tensor(differences).max()),  # NaN where any is
        depths=tuple(depth for each in found for depth in each.depth.tolist()),
        expected=tuple(depth for each in expected for depth in each.depth.tolist()),
    )


def _first(context: Context, rows: int) -> Context:
    return Context(
        {level: value[:rows] for level, value in context.vision.items()},
        {level: value[:rows] for level, value in context.latents.items()},
        context.proprio[:rows],
    )


def _on_processor(context: Context) -> Context:
    return Context(
        {level: value.detach().cpu().float() for level, value in context.vision.items()},
        {level: value.detach().cpu().float() for level, value in context.latents.items()},
        context.proprio.detach().cpu().float(),
    )
