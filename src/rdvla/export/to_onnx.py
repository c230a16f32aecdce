"""Exports a policy or a head as ONNX graphs for `rdvla.runtime`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch

from rdvla.control import ExecutionRule, Stop, as_execution, as_stop, check_fits
from rdvla.engine import recurrent
from rdvla.export.assembly import assemble, single_model
from rdvla.export.comparison import compare_head, compare_policy
from rdvla.export.differences import MADE_UP, made_up_observation, of_export, of_float32
from rdvla.export.folder import Report, check_precision, file_sizes, new_export, require_checks
from rdvla.export.interface import BATCH, head_interface, instruction_encoder, policy_interface
from rdvla.export.loop_functions import make_loop_functions
from rdvla.export.tracing import Example, trace, without_exporter_messages
from rdvla.hashing import fingerprint
from rdvla.heads import RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.policy.records import trained_instructions
from rdvla.runtime import Description, OnnxHead, OnnxPolicy
from rdvla.runtime.description import GRAPH, INSTRUCTION_GRAPH, NAME
from rdvla.types import Observation

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "int8"]
INT8_BLOCK = 32  # weights that share a scale, along the summed dimension
INT8_ACCURACY_LEVEL = 4  # of onnxruntime: 8-bit products, activations quantised on the way


def export_policy(
    policy: RDVLAPolicy,
    output: Path,
    *,
    precision: Precision = "fp32",
    observation: Observation | None = None,
    observed: str = "observations that were given",
) -> Report:
    """Export a whole policy; what runs in bfloat16 is exported in float32.

    Args:
        policy: with a compact backbone.
        output: folder to make; an older export makes way.
        precision: fp32, or int8 for the weights of matrix products.
        observation: a batch to compare the two on, best of frames of a dataset; made up if not given.
        observed: what it shows, for the report.

    Raises:
        RDVLAError: the backbone cannot be exported, `output` holds something else, or a float32 export does
            not act as the policy; nothing is written then.
    """
    policy.backbone.export_steps()  # fails for other backbones, before gigabytes are copied
    plain = _in_float32(policy)
    head, interface = recurrent(plain.head), policy_interface(plain)
    instruction = instruction_encoder(plain.backbone.export_steps().instruction)
    loop = make_loop_functions(head, interface)
    check_precision(precision, get_args(Precision))
    with new_export(output, described_by=NAME) as folder:
        graphs = trace(plain, {**loop.functions, "instruction": instruction.function})
        text = Example(torch.zeros(BATCH, interface.inputs["text"].tensor.shape[1]), {0: "batch"})
        sentence_model = single_model(graphs.pop("instruction"), instruction.function, {"text": text})
        _save(assemble(loop, graphs), folder / GRAPH, precision)
        _save(sentence_model, folder / INSTRUCTION_GRAPH, precision)
        instruction.write_tokenizer(folder)
        config = plain.config
        description = replace(
            _describe_head(head, policy.stop, config.execution, precision),
            part="policy",
            cameras=config.cameras,
            image_size=config.image_size,
            resize={camera: fit.how for camera, fit in config.fits.fits.items()},
            camera_sizes=config.camera_sizes,
            state_dim=config.state_dim,
            tokenizer=instruction.tokenizer,
            longest_instruction=instruction.longest,
            start=config.start,
            instructions=trained_instructions(policy.records),
            weights=fingerprint(policy),
        )
        description.write(folder)
        exported = OnnxPolicy.load(folder, threads=1)
        checks = compare_policy(plain, exported)
        require_checks(checks, precision=precision)
        shown = made_up_observation(plain) if observation is None else observation
        differences = of_export(plain, exported, shown)
    return Report(
        output,
        precision,
        file_sizes(output),
        checks,
        compared_on=MADE_UP if observation is None else observed,
        differences=differences,
        bfloat16=of_float32(policy, plain, shown),
    )


def export_head(
    head: RecurrentDepthHead,
    output: Path,
    *,
    stop: int | str | Stop,
    execution: int | str | ExecutionRule,
    precision: Precision = "fp32",
) -> Report:
    """Export a head alone: features in, normalised actions out.

    Args:
        head: of any policy.
        output: folder to make; an older export makes way.
        stop: the rule that runs if none is given: a depth, a rule, or its text.
        execution: rule for the number of actions to run, for whoever runs them.
        precision: fp32, or int8 for the weights of matrix products.

    Raises:
        RDVLAError: as `export_policy`.
        ConfigError: there is no such rule, or the execution rule runs more actions than a chunk has.
    """
    stop, execution = as_stop(stop), as_execution(execution)
    check_fits(execution, chunk_size=head.config.chunk_size)
    plain = copy.deepcopy(head).cpu().float().eval().requires_grad_(False)
    check_precision(precision, get_args(Precision))
    with new_export(output, described_by=NAME) as folder:
        loop = make_loop_functions(plain, head_interface(plain))
        _save(assemble(loop, trace(plain, loop.functions)), folder / GRAPH, precision)
        described = _describe_head(plain, stop, execution.describe(), precision)
        replace(described, weights=fingerprint(head)).write(folder)
        checks = compare_head(plain, stop, OnnxHead.load(folder, threads=1))
        require_checks(checks, precision=precision)
    return Report(output, precision, file_sizes(output), checks)


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weights of matrix products, in the loop too, as 8-bit integers with a scale per block.

    Convolutions, embeddings, biases and norms stay as they are.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=INT8_BLOCK, is_symmetric=True, accuracy_level=INT8_ACCURACY_LEVEL, bits=8
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    with without_exporter_messages():
        quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized


def _in_float32(policy: RDVLAPolicy) -> RDVLAPolicy:
    """Copy to the CPU. ONNX has no convolutions in bfloat16 there."""
    config = replace(policy.config, backbone=policy.config.backbone.in_float32())
    plain = RDVLAPolicy(config, policy.statistics)
    plain.load_state_dict(policy.state_dict())
    plain.records = policy.records
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
