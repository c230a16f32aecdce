"""The paper's backbone: two image encoders side by side, a projector, and Qwen2 with learned latent tokens.

    images --DINOv2, SigLIP--> patches (B, cameras x 256, 2176) --projector--> (B, M, D)
    [first prompt token ; M patches ; rest of the prompt ; L latents ; stop] --Qwen2--> hidden states

What the head reads are two slices of chosen hidden states, cut as when published weights were trained:
*vision* is positions 0 to M - 1, the first prompt token and all patches but the last; *latents* are L
positions that start one before the first latent token. No vocabulary logits are computed, and no layer above
the last one that is read exists.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rdvla.backbone.base import Backbone, Features
from rdvla.backbone.image_transforms import ImageTransform
from rdvla.backbone.lora import add_lora, is_lora, merged_pairs
from rdvla.backbone.prismatic_config import PrismaticConfig
from rdvla.backbone.prismatic_model import PublishedModel
from rdvla.backbone.prompt import PADDING, STOP_TOKEN, PromptTokenizer, load_tokenizer
from rdvla.errors import ConfigError

TOKENIZER_FOLDER = "tokenizer"


class PrismaticBackbone(Backbone):
    """See the module's description. Parameters keep the names of the published weights.

    Trained are the latent tokens and, where `config.lora` asks for it, low-rank pairs; everything else is
    frozen. The precision of the published part is the configuration's: do not cast it with `.to(dtype)`,
    which would round the rotary frequencies too.
    """

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.config = config
        self.context_width = config.language.width
        self.levels = config.levels
        published = PublishedModel(config)
        add_lora(published, config.lora, language=published.language_model)
        published.checkpoint_gradients(config.gradient_checkpointing)
        self.published = published
        # As large as embeddings are: a token that stands out would be all that the others see.
        self.latents = nn.Parameter(torch.randn(config.latents, config.language.width) * 0.02)
        self.image_transform = ImageTransform(
            size=config.dinov2.image_size, crop_area=config.crop_area, jpeg_quality=config.jpeg_quality
        )
        self.prompt_tokenizer: PromptTokenizer | None = None

    # --- before anything that is trained ---

    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Projected patches where the image encoders are frozen, the images where not; and prompt tokens."""
        if self.prompt_tokenizer is None:
            raise ConfigError(
                "the prismatic backbone has no tokenizer: load a policy folder that holds one "
                f"({TOKENIZER_FOLDER}/), or call load_tokenizer_from(folder)"
            )
        prepared = {"prompt": self.prompt_tokenizer(instructions).to(images.device)}
        if self._encoders_are_trained():
            return prepared | {"images": images}
        return prepared | {"patches": self._encode(images)}

    def load_tokenizer_from(self, folder: Path) -> None:
        """Take the tokenizer whose files lie in a folder.

        Raises:
            ConfigError: there is none, or it is not one of this language model.
        """
        self.prompt_tokenizer = PromptTokenizer(
            load_tokenizer(folder),
            max_tokens=self.config.max_prompt_tokens,
            vocab_size=self.config.language.vocab_size,
        )

    def constant_prefixes(self) -> tuple[str, ...]:
        """`prepare` computes with these parameters."""
        if self._encoders_are_trained():
            return ()
        return ("published.vision_backbone.", "published.projector.")

    def _encoders_are_trained(self) -> bool:
        parts = (self.published.vision_backbone, self.published.projector)
        return any(parameter.requires_grad for part in parts for parameter in part.parameters())

    def _encode(self, images: Tensor) -> Tensor:
        """(B, cameras, H, W, 3) uint8 -> (B, M, D), camera by camera."""
        pixels = self.image_transform(images.flatten(0, 1))
        patches: Tensor = self.published.projector(self.published.vision_backbone(pixels))
        return patches.reshape(len(images), -1, self.context_width)

    # --- the rest of the way ---

    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """See `Backbone`; prompts of different lengths do not disturb each other."""
        patches = prepared["patches"] if "patches" in prepared else self._encode(prepared["images"])
        prompt = prepared["prompt"]
        lengths = (prompt != PADDING).sum(dim=1)
        prompt = prompt[:, : int(lengths.max())]
        sequence = self._sequence(prompt, lengths, patches)
        hidden_states = self.published.hidden_states(sequence, self._mask(sequence, patches, lengths))
        first_latent = patches.shape[1] + lengths
        places = first_latent[:, None] - 1 + torch.arange(len(self.latents), device=lengths.device)
        chosen = {level: hidden_states[level].to(self.latents.dtype) for level in self.config.levels}
        return Features(
            vision={level: states[:, : patches.shape[1]] for level, states in chosen.items()},
            latents={level: _rows(states, places) for level, states in chosen.items()},
        )

    def _sequence(self, prompt: Tensor, lengths: Tensor, patches: Tensor) -> Tensor:
        """(B, S, D) embeddings, in the order of the module's description; padding comes last."""
        embed = self.published.language_model.embed_tokens
        batch, width = prompt.shape
        count, latents = patches.shape[1], len(self.latents)
        words = embed(prompt.clamp(min=0))
        stop = embed(prompt.new_full((batch, 1), STOP_TOKEN))
        learned = self.latents.to(words.dtype).expand(batch, -1, -1)
        parts = torch.cat([words, patches.to(words.dtype), learned, stop], dim=1)
        place = torch.arange(parts.shape[1], device=prompt.device).expand(batch, -1)
        rest, first_latent = lengths[:, None], count + lengths[:, None]
        # Where in `parts` each place of the sequence is found; nobody looks at what follows the stop token.
        source = torch.where(place <= count, width + place - 1, place - count)
        source = torch.where(place >= first_latent, width + place - rest, source)
        source = torch.where(place == 0, 0, source).clamp(max=width + count + latents)
        return _rows(parts, source)

    def _mask(self, sequence: Tensor, patches: Tensor, lengths: Tensor) -> Tensor | None:
        """(B, 1, 1, S) bool, what may be seen; None: every place sees those before it.

        Padding comes last, so that causal attention cannot see it.
        """
        if self.config.attention == "causal":
            return None
        total = patches.shape[1] + lengths + len(self.latents) + 1
        return (torch.arange(sequence.shape[1], device=lengths.device) < total[:, None])[:, None, None]

    # --- files ---

    def take_over(self, source: Backbone) -> None:
        """Start from another prismatic backbone; one without LoRA may give its weights to one with it."""
        own, names = self.state_dict(), {}
        for name in source.state_dict():
            module, _, parameter = name.rpartition(".")
            adapted = f"{module}.base_layer.{parameter}"  # what peft calls the weight beside its pair
            names[adapted if name not in own and adapted in own else name] = name
        pairs = {name for name in own.keys() - names.keys() if is_lora(name)}
        if (
            not isinstance(source, PrismaticBackbone)
            or own.keys() - names.keys() != pairs
            or names.keys() - own.keys()
        ):
            raise ConfigError("a prismatic backbone can only start from one that has the same parts")
        weights = source.state_dict()
        self.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()}, strict=False)
        self.prompt_tokenizer = source.prompt_tokenizer

    def plain_weights(self) -> dict[str, Tensor]:
        """All weights as if there were no LoRA: what the pairs add is part of the matrices beside them."""
        weights = {
            name.replace(".base_layer.", "."): value
            for name, value in self.state_dict().items()
            if not is_lora(name)
        }
        for name, added in merged_pairs(self, self.config.lora).items():
            weights[name] = (weights[name].float() + added).to(weights[name].dtype)
        return weights

    def save_files(self, folder: Path) -> None:
        """Write the tokenizer."""
        if self.prompt_tokenizer is not None:
            shutil.rmtree(folder / TOKENIZER_FOLDER, ignore_errors=True)
            self.prompt_tokenizer.tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)

    def load_files(self, folder: Path) -> None:
        """Read the tokenizer."""
        self.load_tokenizer_from(folder / TOKENIZER_FOLDER)


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """(B, S, D), (B, n) -> (B, n, D)."""
    return values.gather(1, places.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
