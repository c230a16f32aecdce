"""Policies, observations and published encoders that are small enough to be made in every test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rdvla.backbone import CompactConfig
from rdvla.heads import RecurrentConfig
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.types import Observation

SIZE = 32
CAMERAS = ("front", "wrist")
SENTENCES = ("push the puck", "open the drawer", "close the door", "lift the red block")
BACKBONE = CompactConfig(
    num_cameras=2, image_size=SIZE, width=16, slots=3, slot_dim=8, latents=4, heads=2,
    conv_stem=4, conv_width=8, conv_blocks=1, conv_bfloat16=False,
    text_width=16, max_instruction_bytes=24, environment_state_dim=5,
)  # fmt: skip
HEAD = RecurrentConfig(
    hidden_dim=16, num_heads=2, chunk_size=4, action_dim=4, context_dim=16, prelude=("middle",),
    core=("late",), coda=(), mean_depth=4, backprop_depth=2,
)  # fmt: skip
CONFIG = PolicyConfig(
    backbone=BACKBONE,
    head=HEAD,
    cameras=CAMERAS,
    image_size=SIZE,
    state_dim=3,
    stop="4",
    execution="fixed:3",
)
STATISTICS = {
    "action": {"q01": [-1.0, 0.0, -3.0, -1.0], "q99": [1.0, 4.0, -2.0, 1.0]},
    "observation.state": {"q01": [-0.5, 0.0, 0.0], "q99": [0.5, 1.0, 0.0]},
}


def make_policy(config: PolicyConfig = CONFIG, *, seed: int = 0) -> RDVLAPolicy:
    torch.manual_seed(seed)
    return RDVLAPolicy(config, STATISTICS).eval()


def make_images(batch: int, *, cameras: int = 2, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """(B, cameras, H, W, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, cameras, size, size, 3), dtype=torch.uint8, generator=generator)


def make_observation(
    batch: int = 3, *, seed: int = 0, instructions: Sequence[str] = SENTENCES
) -> Observation:
    images = make_images(batch, seed=seed)
    return Observation(
        images={camera: images[:, i] for i, camera in enumerate(CAMERAS)},
        state=torch.rand(batch, 3, generator=torch.Generator().manual_seed(seed)),
        instruction=[instructions[row % len(instructions)] for row in range(batch)],
    )


def save_tiny_dinov2(folder: Path, *, seed: int = 0) -> str:
    """A random vision transformer of patch size 7 (so that 32 pixels are not a whole number of patches)."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=12, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=7,
        hidden_dropout_prob=0.2,
    )  # fmt: skip
    Dinov2Model(config).save_pretrained(folder)
    scale = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    processor = {"image_processor_type": "BitImageProcessor", **scale}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)


def save_tiny_bert(folder: Path, *, seed: int = 0) -> str:
    """A random BERT with a vocabulary of the words in `SENTENCES`, for at most 10 tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=10, hidden_dropout_prob=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def pretrained_config(image_encoder: str | None, text_encoder: str | None) -> PolicyConfig:
    """`CONFIG` with published encoders."""
    backbone = replace(
        BACKBONE, pretrained_image_encoder=image_encoder, pretrained_image_layer=-2,
        pretrained_text_encoder=text_encoder,
    )  # fmt: skip
    return replace(CONFIG, backbone=backbone)
