"""The paper's backbone: two image encoders side by side, a projector, and Qwen2 with learned latent tokens.

    images --DINOv2, SigLIP--> patches (B, cameras x 256, 2176) --projector--> (B, M, D)
    [first prompt token ; M patches ; rest of the prompt ; L latents ; stop] --Qwen2--> hidden states

The head gets two slices of the chosen hidden states, cut as in the training of published weights. *Vision* is
positions 0 to M - 1: the first prompt token and all patches but the last. *Latents* is L positions that start
one before the first latent token. No vocabulary logits are computed, and layers above the last level do not
exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone.base import PADDING, Backbone, Features
from rdvla.backbone.lora import add_lora, is_lora, merged_pairs
from rdvla.backbone.pretrained import PROBE, describe_tokenizer
from rdvla.backbone.prismatic.config import PrismaticConfig
from rdvla.backbone.prismatic.model import PublishedModel
from rdvla.backbone.prismatic.prompt import STOP_TOKEN, PromptTokenizer, load_tokenizer
from rdvla.errors import ConfigError
from rdvla.files import new_folder, read_json, write_json
from rdvla.processing import ImageTransform

TOKENIZER_FOLDER = "tokenizer"
CONVERSION_FILE = "conversion.json"  # of `rdvla convert`


class PrismaticBackbone(Backbone):
    """See the top of this file. Parameters keep the names of the published weights.

    Training changes the latent tokens and, if `config.lora` asks for them, low-rank pairs. Everything else is
    frozen. Set the dtype of published weights in the configuration: `.to(dtype)` would round the rotary
    frequencies too.
    """

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.config = config
        self.lora = config.lora
        self.context_width = config.language.width
        self.levels = config.levels
        published = PublishedModel(config)
        add_lora(published, config.lora, language=published.language_model)
        self.published = published
        if config.gradient_checkpointing:
            self.checkpoint_gradients()
        # As large as embeddings: a token that stands out would take all of the attention.
        self.latents = nn.Parameter(torch.randn(config.latents, config.language.width) * 0.02)
        self.image_transform = ImageTransform(
            size=config.dinov2.image_size, crop_area=config.crop_area, jpeg_quality=config.jpeg_quality
        )
        self.prompt_tokenizer: PromptTokenizer | None = None
        self.conversion: dict[str, Any] = {}  # record of `rdvla convert`; empty: not converted

    def checkpoint_gradients(self) -> None:
        """See `Backbone.checkpoint_gradients`."""
        self.published.checkpoint_gradients()

    # --- before the first trainable parameter ---

    def check_instructions(self, instructions: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""
        self._prompts(instructions)

    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Return prompt tokens, and projected patches, or the images if their encoders are trained."""
        prepared = {"prompt": self._prompts(instructions).to(images.device)}
        if self._encoders_are_trained():
            return prepared | {"images": images}
        return prepared | {"patches": self._encode(images)}

    def _prompts(self, instructions: Sequence[str]) -> Tensor:
        if self.prompt_tokenizer is None:
            raise ConfigError(
                "the prismatic backbone has no tokenizer: load a policy folder that holds one "
                f"({TOKENIZER_FOLDER}/), or call load_tokenizer_from(folder)"
            )
        return self.prompt_tokenizer(instructions)

    def load_tokenizer_from(self, folder: Path) -> None:
        """Load the tokenizer from a folder.

        Raises:
            ConfigError: there is none, or it belongs to another language model.
        """
        self.prompt_tokenizer = PromptTokenizer(
            load_tokenizer(folder),
            max_tokens=self.config.max_prompt_tokens,
            vocab_size=self.config.language.vocab_size,
        )

    def constant_prefixes(self) -> tuple[str, ...]:
        """See `Backbone.constant_prefixes`."""
        if self._encoders_are_trained():
            return ()
        return ("published.vision_backbone.", "published.projector.")

    def _encoders_are_trained(self) -> bool:
        encoders = (self.published.vision_backbone, self.published.projector)
        return any(parameter.requires_grad for module in encoders for parameter in module.parameters())

    def _encode(self, images: Tensor) -> Tensor:
        """(B, cameras, H, W, 3) uint8 -> (B, M, D), ordered by camera."""
        pixels = self.image_transform(images.flatten(0, 1))
        patches: Tensor = self.published.projector(self.published.vision_backbone(pixels))
        return patches.reshape(len(images), -1, self.context_width)

    # --- from the first trainable parameter on ---

    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """See `Backbone.transform`; prompts of different lengths do not disturb each other."""
        patches = prepared["patches"] if "patches" in prepared else self._encode(prepared["images"])
        prompt = prepared["prompt"]
        lengths = (prompt != PADDING).sum(dim=1)
        prompt = prompt[:, : int(lengths.max())]
        sequence = self._sequence(prompt, lengths, patches)
        hidden_states = self.published.hidden_states(sequence, self._mask(sequence, patches, lengths))
        first_latent = patches.shape[1] + lengths
        positions = first_latent[:, None] - 1 + torch.arange(len(self.latents), device=lengths.device)
        chosen = {level: hidden_states[level].to(self.latents.dtype) for level in self.config.levels}
        return Features(
            vision={level: states[:, : patches.shape[1]] for level, states in chosen.items()},
            latents={level: _gather(states, positions) for level, states in chosen.items()},
        )

    def _sequence(self, prompt: Tensor, lengths: Tensor, patches: Tensor) -> Tensor:
        """(B, S, D) embeddings, in the order at the top of this file; padding comes last."""
        embed = self.published.language_model.embed_tokens
        batch, width = prompt.shape
        count, latents = patches.shape[1], len(self.latents)
        words = embed(prompt.clamp(min=0))
        stop = embed(prompt.new_full((batch, 1), STOP_TOKEN))
        learned = self.latents.to(words.dtype).expand(batch, -1, -1)
        found = torch.cat([words, patches.to(words.dtype), learned, stop], dim=1)
        position = torch.arange(found.shape[1], device=prompt.device).expand(batch, -1)
        rest, first_latent = lengths[:, None], count + lengths[:, None]
        # Index into `found` per position of the sequence. Nothing attends to what follows the stop token.
        source = torch.where(position <= count, width + position - 1, position - count)
        source = torch.where(position >= first_latent, width + position - rest, source)
        source = torch.where(position == 0, 0, source).clamp(max=width + count + latents)
        return _gather(found, source)

    def _mask(self, sequence: Tensor, patches: Tensor, lengths: Tensor) -> Tensor | None:
        """(B, 1, 1, S) bool, True for the positions that may be attended to; None: causal attention.

        Padding comes last, so causal attention cannot see it.
        """
        if self.config.attention == "causal":
            return None
        total = patches.shape[1] + lengths + len(self.latents) + 1
        return (torch.arange(sequence.shape[1], device=lengths.device) < total[:, None])[:, None, None]

    # --- files ---

    def take_over(self, source: Backbone) -> None:
        """Start from another prismatic backbone: weights, tokenizer and the record of their conversion."""
        super().take_over(source)
        assert isinstance(source, PrismaticBackbone)
        self.prompt_tokenizer, self.conversion = source.prompt_tokenizer, source.conversion

    def plain_weights(self) -> dict[str, Tensor]:
        """Return all weights without LoRA: the low-rank pairs are added to the matrices next to them."""
        weights = {
            name.replace(".base_layer.", "."): value
            for name, value in self.state_dict().items()
            if not is_lora(name)
        }
        for name, added in merged_pairs(self, self.config.lora).items():
            weights[name] = (weights[name].float() + added).to(weights[name].dtype)
        return weights

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: the tokens of a prompt."""
        if self.prompt_tokenizer is None:
            return {}
        return {
            "tokenizer": describe_tokenizer(self.prompt_tokenizer.tokenizer),
            "prompt": self.prompt_tokenizer([PROBE]).tolist(),
        }

    def base_models(self) -> tuple[str, ...]:
        """See `Backbone.base_models`: the converted checkpoint, if there is one."""
        return (self.conversion["source"],) if self.conversion else ()

    def save_files(self, folder: Path) -> list[str]:
        """Write the tokenizer, and the record of the conversion if there is one."""
        written = []
        if self.prompt_tokenizer is not None:
            with new_folder(folder / TOKENIZER_FOLDER, replace=True) as temporary:
                self.prompt_tokenizer.tokenizer.save_pretrained(temporary)
            files = (folder / TOKENIZER_FOLDER).glob("*.json")  # only these are downloaded from the hub
            written += [f"{TOKENIZER_FOLDER}/{path.name}" for path in files]
        if self.conversion:
            write_json(folder / CONVERSION_FILE, self.conversion)
            written.append(CONVERSION_FILE)
        else:  # of an older policy in the same folder
            (folder / CONVERSION_FILE).unlink(missing_ok=True)
        return written

    def load_files(self, folder: Path) -> None:
        """Read the tokenizer, and the record of the conversion if there is one."""
        self.load_tokenizer_from(folder / TOKENIZER_FOLDER)
        path = folder / CONVERSION_FILE
        self.conversion = _read_conversion(path) if path.is_file() else {}


def _read_conversion(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("source"), str):
        raise ConfigError(f"{path} does not name its source: convert the published checkpoint again")
    return record


def _gather(values: Tensor, positions: Tensor) -> Tensor:
    """(B, S, D), (B, n) -> (B, n, D)."""
    return values.gather(1, positions.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
