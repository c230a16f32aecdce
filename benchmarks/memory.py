"""The memory that fine-tuning a published vision-language model takes, computed without weights or GPU.

    python -m benchmarks.memory

Models of the published sizes are built on the meta device, whose tensors have a shape but no memory. One
sample goes through the language model. Parameters are counted, and the bytes that autograd keeps for the
backward pass, with attention as in a fused kernel. docs/backbones.md has the formula. Fragmentation and the
libraries' own buffers are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published_sizes import MODELS
from rdvla.backbone import LoraSettings
from rdvla.backbone.huggingface.families import make_family
from rdvla.backbone.lora import add_lora
from rdvla.files import write_json
from rdvla.heads import RecurrentConfig, RecurrentDepthHead

GIB = 2**30
TRAINED_BYTES = 4 + 4 + 8 + 4  # float32: weight, gradient, AdamW's two running values, moving average
FROZEN_BYTES = 2  # bfloat16
CAMERAS, LATENTS, TEXT = 2, 64, 40


@dataclass(frozen=True)
class Needs:
    """The needs of one model, in bytes unless said otherwise."""

    model: str
    parameters: int  # as published
    tokens: int  # S, in a sample's sequence
    frozen: int  # weights that are not trained
    trained: int  # LoRA and head: weights, gradient, optimiser, moving average
    lora_parameters: int
    activations: int  # that a sample keeps for the backward pass
    checkpointed: int  # the same with gradient checkpointing

    def training(self, batch: int, *, checkpointing: bool) -> int:
        """Return the memory of an update of `batch` samples, weights included."""
        return self.frozen + self.trained + batch * (self.checkpointed if checkpointing else self.activations)


def compute(name: str) -> Needs:
    """Build a model on the meta device, and run one sample through its language model."""
    with torch.device("meta"):
        model, config, model_type = _model(name)
        parameters = sum(p.numel() for p in model.parameters())
        family = make_family(model_type)
        body = model.model
        language = getattr(body, family.language)
        add_lora(body, LoraSettings(), language=language)
        lora = sum(p.numel() for p in body.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in body.parameters() if not p.requires_grad)
        width = language.config.hidden_size
        head = RecurrentDepthHead(RecurrentConfig(context_dim=width, prelude=(1,), core=(2, 2), coda=(2,)))
        trained = lora + LATENTS * width + sum(p.numel() for p in head.parameters())
        grid = family.image_size(config) // family.token_pixels(config)
        tokens = CAMERAS * grid**2 + TEXT + LATENTS
        kept = _kept_for_backward(language, tokens, width)
        layers = language.config.num_hidden_layers
    return Needs(
        model=name,
        parameters=parameters,
        tokens=tokens,
        frozen=FROZEN_BYTES * frozen,
        trained=TRAINED_BYTES * trained,
        lora_parameters=lora,
        activations=kept,
        checkpointed=layers * tokens * width * FROZEN_BYTES + kept // layers,
    )


def _model(name: str) -> tuple[Any, Any, str]:
    from transformers import AttentionInterface, AutoConfig, AutoModelForImageTextToText

    AttentionInterface.register("fused", _fused)
    model_type, values = MODELS[name]
    config = AutoConfig.for_model(model_type, **values)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    model.set_attn_implementation({"text_config": "fused"})
    return model, config, model_type


class _FusedAttention(torch.autograd.Function):
    """Keeps the same tensors as a fused attention kernel: inputs, output, and a number per query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        context.save_for_backward(
            query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32)
        )
        return output

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("memory is counted in the forward pass")


def _fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    del module
    output: Tensor = _FusedAttention.apply(query, key, value)
    return output.transpose(1, 2).contiguous(), None


def _kept_for_backward(language: nn.Module, tokens: int, width: int) -> int:
    """Return the bytes that autograd keeps of a sample in the language model, without weights."""
    weights = {p.untyped_storage()._cdata for p in language.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    embeddings = torch.empty(1, tokens, width, dtype=torch.bfloat16, requires_grad=True)
    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool)  # as for padded prompts
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = language(inputs_embeds=embeddings, attention_mask=mask, use_cache=False)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def format_table(needs: Sequence[Needs]) -> str:
    """Format a Markdown table."""
    titles = (
        "model", "parameters", "tokens S", "LoRA", "frozen weights", "trained state",
        "activations per sample", "with checkpointing", "training, batch 8, checkpointing",
    )  # fmt: skip
    lines = [titles, ("---",) * len(titles)]
    lines += [
        (
            each.model,
            f"{each.parameters / 1e9:.2f} B",
            str(each.tokens),
            f"{each.lora_parameters / 1e6:.0f} M",
            *(_gib(count) for count in (each.frozen, each.trained, each.activations, each.checkpointed)),
            _gib(each.training(8, checkpointing=True)),
        )
        for each in needs
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


def main(argv: Sequence[str] | None = None) -> None:
    """Compute, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--output", type=Path, default=Path("runs/bench/memory.json"))
    options = parser.parse_args(argv)
    needs = [compute(name) for name in options.models]
    print(format_table(needs))
    write_json(options.output, [asdict(each) for each in needs])


if __name__ == "__main__":
    main()
