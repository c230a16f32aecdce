"""What an exported graph takes and gives: a whole policy's observation, or a head's features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.backbone.base import InstructionSteps
from rdvla.engine.aoti.functions import features_by_name
from rdvla.export.tracing import Example, TensorFunction
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.runtime.description import TOKENIZER

BATCH = 2  # of the examples
INSTRUCTION_TOKENS = 3  # of an example whose number of tokens varies
CONTEXT_TOKENS = 64  # vision and latents each, enough for the prelude to take the form for long contexts


@dataclass(frozen=True)
class GraphInterface:
    """How a graph's inputs become the head's context, and the head's actions become its output."""

    inputs: Mapping[str, Example]
    context: Callable[..., Context]  # of tensors, in the order of `inputs`
    finish: Callable[[Tensor], Tensor]  # normalised actions (B, K, A) -> the graph's actions (B, K, A)


@dataclass(frozen=True)
class InstructionEncoder:
    """Encodes the tokens of one instruction into the policy graph's input `text`."""

    function: TensorFunction
    tokenizer: str  # as `Description.tokenizer` calls it
    longest: int  # bytes or tokens; 0: no limit
    published: Any = None  # the tokenizer of a published encoder

    def write_tokenizer(self, folder: Path) -> None:
        """Write the file that the runtime needs to tokenize, if it needs one."""
        if self.published is not None:
            self.published.backend_tokenizer.save(str(folder / TOKENIZER))


def head_interface(head: RecurrentDepthHead) -> GraphInterface:
    """Take the features of any backbone, and give normalised actions."""
    levels, width = head.config.levels, head.config.context_width
    inputs = {
        f"{kind}.{level}": Example(
            torch.zeros(BATCH, CONTEXT_TOKENS, width), {0: "batch", 1: f"{kind}_tokens"}
        )
        for kind in ("vision", "latents")
        for level in levels
    }

    def context(proprio: Tensor, *features: Tensor) -> Context:
        vision, latents = features[: len(levels)], features[len(levels) :]
        return head.context(
            vision=dict(zip(levels, vision, strict=True)),
            latents=dict(zip(levels, latents, strict=True)),
            proprio=proprio,
        )

    proprio = Example(torch.zeros(BATCH, 1, width), {0: "batch"})
    return GraphInterface({"proprio": proprio, **inputs}, context, finish=torch.clone)


def policy_interface(policy: RDVLAPolicy) -> GraphInterface:
    """Take camera images, encoded instructions and proprioception, and give actions in the robot's units.

    Raises:
        ConfigError: the policy's backbone cannot be exported.
    """
    steps, config = policy.backbone.export_steps(), policy.config
    side = config.image_size
    images = torch.zeros(BATCH, len(config.cameras), side, side, 3, dtype=torch.uint8)

    def context(images: Tensor, text: Tensor, state: Tensor) -> Context:
        return policy.context_from(steps.prepare(images, text), policy.state_normalizer.normalize(state))

    inputs = {
        "images": Example(images, {0: "batch"}),
        "text": Example(torch.zeros(BATCH, steps.instruction.width), {0: "batch"}),
        "proprioception": Example(torch.zeros(BATCH, config.state_dim), {0: "batch"}),
    }
    return GraphInterface(inputs, context, policy.action_normalizer.unnormalize)


def instruction_encoder(steps: InstructionSteps) -> InstructionEncoder:
    """Return the encoder of a policy's instructions, a graph of its own: it runs once per sentence."""
    varying = {0: "batch"} if steps.tokens else {0: "batch", 1: "tokens"}
    tokens = Example(torch.ones(BATCH, steps.tokens or INSTRUCTION_TOKENS, dtype=torch.int64), varying)
    return InstructionEncoder(
        function=TensorFunction(steps.read, {"tokens": tokens}, ("text",)),
        tokenizer="bytes" if steps.tokenizer is None else "tokenizers",
        longest=steps.longest,
        published=steps.tokenizer,
    )


def features_of(context: Context) -> dict[str, NDArray[np.float32]]:
    """Return a context as `rdvla.runtime.OnnxHead` takes it: feature -> (B, tokens, C)."""
    named = features_by_name(context, tuple(context.vision))
    return {feature: value.numpy() for feature, value in named.items()}
