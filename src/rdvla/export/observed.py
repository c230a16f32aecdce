"""What goes into an exported graph, and its way to the head's context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.backbone.base import InstructionSteps
from rdvla.engine.aoti.functions import features_by_name
from rdvla.export.pieces import BATCH, Observed
from rdvla.export.trace import Example, Part
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.runtime.description import TOKENIZER

TOKENS = 3  # of an example whose number of tokens varies
CONTEXT_TOKENS = 64  # of vision and of latents; so many that the prelude reads them as it reads long contexts


@dataclass(frozen=True)
class InstructionEncoder:
    """Tokens of one instruction to the vector that the policy's graph takes of it."""

    part: Part
    tokenizer: str  # as `Description.tokenizer` calls it
    longest: int  # bytes or tokens; 0: no limit
    published: Any = None  # the tokenizer of a published encoder

    def write_tokenizer(self, folder: Path) -> None:
        """Write what the runtime needs to tokenize."""
        if self.published is not None:
            self.published.backend_tokenizer.save(str(folder / TOKENIZER))


def observe_features(head: RecurrentDepthHead) -> Observed:
    """The head alone: features of any backbone in, normalised actions out."""
    levels, width = head.config.levels, head.config.context_width
    inputs = {f"{kind}.{level}": _tokens(kind, width) for kind in ("vision", "latents") for level in levels}

    def context(proprio: Tensor, *features: Tensor) -> Context:
        named = [
            dict(zip(levels, half, strict=True))
            for half in (features[: len(levels)], features[len(levels) :])
        ]
        return head.context(vision=named[0], latents=named[1], proprio=proprio)

    proprio = Example(torch.zeros(BATCH, 1, width), {0: "batch"})
    return Observed({"proprio": proprio, **inputs}, context, finish=torch.clone)


def features_of(context: Context) -> dict[str, NDArray[np.float32]]:
    """A context as `rdvla.runtime.OnnxHead` takes it."""
    named = features_by_name(context, tuple(context.vision))
    return {feature: value.numpy() for feature, value in named.items()}


def observe_robot(policy: RDVLAPolicy) -> tuple[Observed, InstructionEncoder]:
    """The whole policy: what a robot sees and feels in, actions in its units out.

    Raises:
        ConfigError: it has a backbone that cannot be exported.
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
    observed = Observed(inputs, context, policy.action_normalizer.unnormalize)
    return observed, _instruction_encoder(steps.instruction)


def _instruction_encoder(steps: InstructionSteps) -> InstructionEncoder:
    varying = {0: "batch"} if steps.tokens else {0: "batch", 1: "tokens"}
    tokens = Example(torch.ones(BATCH, steps.tokens or TOKENS, dtype=torch.int64), varying)
    return InstructionEncoder(
        Part(steps.read, {"tokens": tokens}, ("text",)),
        "bytes" if steps.tokenizer is None else "tokenizers",
        steps.longest,
        steps.tokenizer,
    )


def _tokens(kind: str, width: int) -> Example:
    return Example(torch.zeros(BATCH, CONTEXT_TOKENS, width), {0: "batch", 1: f"{kind}_tokens"})
