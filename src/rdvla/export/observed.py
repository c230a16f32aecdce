"""What goes into an exported graph, and its way to the head's context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.backbone import Backbone, CompactBackbone
from rdvla.backbone.compact.text_encoders import ByteEncoder, PretrainedTextEncoder
from rdvla.engine.aoti.functions import features_by_name
from rdvla.errors import ConfigError
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


def exportable(backbone: Backbone) -> CompactBackbone:
    """The backbone, if its way to the features is nothing but operations on tensors.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(backbone, CompactBackbone):
        raise ConfigError(
            f"a policy with a {type(backbone).__name__} cannot be exported as a whole, only one with the "
            "compact backbone: export its head with --part head, and run the backbone with torch"
        )
    return backbone


def features_of(context: Context) -> dict[str, NDArray[np.float32]]:
    """A context as `rdvla.runtime.OnnxHead` takes it."""
    named = features_by_name(context, tuple(context.vision))
    return {feature: value.numpy() for feature, value in named.items()}


def observe_robot(policy: RDVLAPolicy) -> tuple[Observed, InstructionEncoder]:
    """The whole policy: what a robot sees and feels in, actions in its units out.

    Raises:
        ConfigError: it has a backbone that cannot be exported.
    """
    backbone, config = exportable(policy.backbone), policy.config
    side, width = config.image_size, backbone.text_token.in_features
    images = torch.zeros(BATCH, len(config.cameras), side, side, 3, dtype=torch.uint8)

    def context(images: Tensor, text: Tensor, state: Tensor) -> Context:
        prepared = {"image_tokens": backbone.image_encoder(images), "text": text}
        return policy.context_from(prepared, policy.state_normalizer.normalize(state))

    inputs = {
        "images": Example(images, {0: "batch"}),
        "text": Example(torch.zeros(BATCH, width), {0: "batch"}),
        "proprioception": Example(torch.zeros(BATCH, config.state_dim), {0: "batch"}),
    }
    return Observed(inputs, context, policy.action_normalizer.unnormalize), _instruction_encoder(backbone)


def _instruction_encoder(backbone: CompactBackbone) -> InstructionEncoder:
    encoder = backbone.text_encoder
    if isinstance(encoder, ByteEncoder):
        tokens = Example(torch.ones(BATCH, encoder.max_bytes, dtype=torch.int64), {0: "batch"})
        part = Part(encoder.read, {"tokens": tokens}, ("text",))
        return InstructionEncoder(part, "bytes", encoder.max_bytes)
    published: PretrainedTextEncoder = encoder

    def read(tokens: Tensor) -> Tensor:
        return published.read(tokens, torch.ones_like(tokens))

    tokens = Example(torch.ones(BATCH, TOKENS, dtype=torch.int64), {0: "batch", 1: "tokens"})
    longest = getattr(published.model.config, "max_position_embeddings", None) or 0
    return InstructionEncoder(
        Part(read, {"tokens": tokens}, ("text",)), "tokenizers", longest, published.tokenizer
    )


def _tokens(kind: str, width: int) -> Example:
    return Example(torch.zeros(BATCH, CONTEXT_TOKENS, width), {0: "batch", 1: f"{kind}_tokens"})
