"""Writes an export: graphs, tokenizer, `runtime.json`; checked before it takes its place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from rdvla.control import Stop, check_fits, parse_execution
from rdvla.engine import recurrent
from rdvla.errors import ConfigError, RDVLAError
from rdvla.export.join import alone, join
from rdvla.export.observed import observe_features, observe_robot
from rdvla.export.pieces import BATCH, make_pieces
from rdvla.export.quantize import quantize
from rdvla.export.trace import Example, trace
from rdvla.export.verify import (
    DEPTH,
    Check,
    check_head,
    check_policy,
    largest_difference,
    random_observation,
)
from rdvla.files import new_folder
from rdvla.hashing import fingerprint
from rdvla.heads import RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.runtime import Description, OnnxHead, OnnxPolicy
from rdvla.runtime.description import GRAPH, INSTRUCTION_GRAPH, NAME

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Report:
    """What an export holds, and how near it is to the policy."""

    folder: Path
    precision: str
    sizes: dict[str, int]  # file -> bytes
    checks: list[Check]
    bfloat16: float | None = None  # what float32 in place of bfloat16 changes in an action, normalised units


def export_policy(policy: RDVLAPolicy, output: Path, *, precision: Precision = "fp32") -> Report:
    """Export a whole policy, in float32 where it runs in bfloat16.

    Args:
        policy: with a compact backbone.
        output: folder to make; an older export makes way.
        precision: fp32, or int8 for the weights of matrix products.

    Raises:
        RDVLAError: the backbone cannot be exported, `output` holds something else, or a float32 export does
            not act as the policy; nothing is written then.
    """
    policy.backbone.export_steps()  # before gigabytes are copied
    plain = _in_float32(policy)
    observed, instruction = observe_robot(plain)
    head = recurrent(plain.head)
    pieces = make_pieces(head, observed)
    check_precision(precision, get_args(Precision))
    with new_export(output, described_by=NAME) as folder:
        graphs = trace(plain, {**pieces.parts, "instruction": instruction.part})
        text = Example(torch.zeros(BATCH, observed.inputs["text"].tensor.shape[1]), {0: "batch"})
        reader = alone(graphs.pop("instruction"), instruction.part.inputs, {"text": text})
        _save(join(pieces, graphs), folder / GRAPH, precision)
        _save(reader, folder / INSTRUCTION_GRAPH, precision)
        instruction.write_tokenizer(folder)
        config = plain.config
        description = replace(
            _describe_head(head, policy.stop, config.execution, precision),
            part="policy",
            cameras=config.cameras,
            image_size=config.image_size,
            state_dim=config.state_dim,
            tokenizer=instruction.tokenizer,
            longest_instruction=instruction.longest,
            start=config.start,
            weights=fingerprint(policy),
        )
        description.write(folder)
        checks = _checked(precision, lambda: check_policy(plain, OnnxPolicy.load(folder, threads=1)))
    return Report(output, precision, file_sizes(output), checks, _bfloat16(policy, plain))


def export_head(
    head: RecurrentDepthHead,
    output: Path,
    *,
    stop: Stop,
    execution: str,
    precision: Precision = "fp32",
) -> Report:
    """Export a head alone: features in, normalised actions out.

    Args:
        head: of any policy.
        output: folder to make; an older export makes way.
        stop: the rule where none is given.
        execution: rule for the number of actions to run, for whoever runs them.
        precision: fp32, or int8 for the weights of matrix products.

    Raises:
        RDVLAError: as `export_policy`.
        ConfigError: the execution rule is none, or runs more actions than a chunk has.
    """
    check_fits(parse_execution(execution), chunk_size=head.config.chunk_size)
    plain = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    check_precision(precision, get_args(Precision))
    with new_export(output, described_by=NAME) as folder:
        pieces = make_pieces(plain, observe_features(plain))
        _save(join(pieces, trace(plain, pieces.parts)), folder / GRAPH, precision)
        replace(_describe_head(plain, stop, execution, precision), weights=fingerprint(head)).write(folder)
        checks = _checked(precision, lambda: check_head(plain, stop, OnnxHead.load(folder, threads=1)))
    return Report(output, precision, file_sizes(output), checks)


@contextmanager
def new_export(output: Path, *, described_by: str) -> Iterator[Path]:
    """Yield a temporary folder that becomes `output`, where an older export may be but nothing else.

    Args:
        output: the folder to make.
        described_by: name of the file that every such export has.

    Raises:
        RDVLAError: `output` is something else.
    """
    if output.exists() and not (output / described_by).exists():
        raise RDVLAError(f"{output} exists and is no export of this kind: name a new folder")
    with new_folder(output, replace=True) as folder:
        yield folder


def check_precision(precision: str, known: Sequence[str]) -> None:
    """Raise `ConfigError` where a precision is none of those that a kind of export has."""
    if precision not in known:
        raise ConfigError(f"precision must be one of {', '.join(known)}, got {precision!r}")


def _in_float32(policy: RDVLAPolicy) -> RDVLAPolicy:
    """A copy on the processor. Convolutions in bfloat16 are for one that has it, and ONNX has none there."""
    config = replace(policy.config, backbone=policy.config.backbone.in_float32())
    plain = RDVLAPolicy(config, policy.statistics)
    plain.load_state_dict(policy.state_dict())
    return plain.eval().requires_grad_(False)


def _describe_head(head: RecurrentDepthHead, stop: Stop, execution: str, precision: Precision) -> Description:
    config = head.config
    return Description(
        part="head",
        precision=precision,
        chunk_size=config.chunk_size,
        action_dim=config.action_dim,
        hidden_dim=config.hidden_dim,
        initial_state_std=config.initial_state_std * float(head.gamma_init),
        stop=stop.describe(),
        execution=execution,
    )


def _save(model: onnx.ModelProto, path: Path, precision: Precision) -> None:
    path.write_bytes((quantize(model) if precision == "int8" else model).SerializeToString())


def _checked(precision: Precision, check: Callable[[], list[Check]]) -> list[Check]:
    checks = check()
    if precision == "fp32":
        for one in checks:
            one.require()
    return checks


def _bfloat16(policy: RDVLAPolicy, plain: RDVLAPolicy) -> float | None:
    """How far the policy as it is and its copy in float32 are apart, if at all."""
    observation = random_observation(plain)
    start = plain.initial_state(observation.batch_size, torch.Generator().manual_seed(0))
    first, second = (
        one.predict(observation, stop=DEPTH, initial_state=start.to(one.device)).actions.cpu()
        for one in (policy, plain)
    )
    return largest_difference(first, second, plain.action_normalizer.normalize) or None


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
