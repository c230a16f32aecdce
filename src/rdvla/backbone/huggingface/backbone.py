"""Any vision-language model of transformers as a backbone.

    [prompt with image tokens ; (reasoning) ; learned latent tokens] -> chosen hidden states

The published model stays as it is: training changes the latent tokens and, with LoRA, small matrices next to
its linear layers. The configuration names the model, and a saved policy does not hold it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone.base import PADDING, Backbone, Features
from rdvla.backbone.huggingface.config import HuggingFaceConfig
from rdvla.backbone.huggingface.families import IMAGE
from rdvla.backbone.huggingface.language import Prompt, Reasoning, States
from rdvla.backbone.huggingface.model import load_published
from rdvla.backbone.huggingface.prompt import PromptWriter
from rdvla.backbone.lora import add_lora, is_lora
from rdvla.backbone.pretrained import PROBE, checkpoint_activations, describe_architecture, describe_tokenizer
from rdvla.errors import ConfigError


class HuggingFaceBackbone(Backbone):
    """See the top of this file.

    Raises:
        ConfigError: there is no such model, its family is not supported, or a setting does not fit it.
        MissingExtraError: LoRA is asked for and peft is not installed.
    """

    def __init__(self, config: HuggingFaceConfig) -> None:
        super().__init__()
        self.config = config
        self.lora = config.lora
        self.levels = config.levels
        self.published = load_published(
            config.name_or_path,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            layers=config.levels,
            image_size=config.image_size,
            text=config.reasoning_tokens > 0,
        )
        self.model = self.published.model.eval()
        self.vocabulary = self.published.vocabulary
        if self.vocabulary is not None:
            self.vocabulary.requires_grad_(False)
        scale = self.published.embedding_scale()
        add_lora(self.model, config.lora, language=self.published.language)
        if config.gradient_checkpointing:
            self.checkpoint_gradients()
        self.context_width = width = self.published.width
        self.latents = nn.Parameter(torch.randn(config.latents, width) * scale)
        # Fills the positions after reasoning that ends early, so the head's context keeps its size.
        self.silence = nn.Parameter(torch.zeros(len(config.levels), width)) if self.vocabulary else None
        self.reader = self.published.reader(config.levels)
        self.prompts = PromptWriter(
            self.published.family,
            self.published.tokenizer,
            question=config.question,
            image_token=self.published.image_token,
            image_tokens=self.published.grid**2,
            max_text_tokens=config.max_text_tokens,
        )

    def checkpoint_gradients(self) -> None:
        """See `Backbone.checkpoint_gradients`."""
        checkpoint_activations(self.model)

    def check_instructions(self, instructions: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""
        self.prompts.rows(instructions, images=1)

    def prepare(self, images: Tensor, instructions: Sequence[str]) -> dict[str, Tensor]:
        """Return token ids, and image features, or the images if their encoder is trained."""
        tokens = self.prompts.rows(instructions, images=images.shape[1]).to(images.device)
        return {"tokens": tokens} | ({"images": images} if self._trains_vision else self._encode(images))

    def transform(self, prepared: Mapping[str, Tensor]) -> Features:
        """Run prompt, reasoning and latents through the language model."""
        prompt = self.embed_prompt(prepared)
        latents = self.latents.to(prompt.embeddings.dtype).expand(len(prompt.mask), -1, -1)
        tokens, states = self._read(prompt, latents)
        vision, thoughts = {}, {}
        for index, (level, state) in enumerate(zip(self.levels, states, strict=True)):
            of_prompt, after = state[:, : prompt.length].float(), state[:, prompt.length :].float()
            vision[level] = of_prompt[prompt.is_image].reshape(len(state), -1, self.context_width)
            thoughts[level] = (
                after if self.silence is None else self._fill(after, tokens, self.silence[index])
            )
        return Features(vision=vision, latents=thoughts)

    def reasoning(self, images: Tensor, instructions: Sequence[str]) -> list[str]:
        """Generate what the model says before it acts, a text per sample.

        Raises:
            ConfigError: `reasoning_tokens` is 0.
        """
        if self.vocabulary is None:
            raise ConfigError(
                "backbone.reasoning_tokens is 0: this backbone does not put its thoughts into words"
            )
        with torch.no_grad():
            prompt = self.embed_prompt(self.prepare(images, instructions))
            return self.prompts.text(self._reason(prompt).tokens)

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: pixel scale, tokenizer, the tokens of a prompt, the ends of a text."""
        published = self.published
        return {
            "pixels": [list(published.mean), list(published.std)],
            "tokenizer": describe_tokenizer(published.tokenizer),
            "prompt": self.prompts.rows([PROBE], images=1).tolist(),
            "ends": list(published.ends),
        }

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return describe_architecture(self.model)

    def external_prefixes(self) -> tuple[str, ...]:
        """See `Backbone.external_prefixes`: every weight of the published model."""
        published = ("model.", "vocabulary.")
        return tuple(name for name in self.state_dict() if name.startswith(published) and not is_lora(name))

    def base_models(self) -> tuple[str, ...]:
        """See `Backbone.base_models`: the published vision-language model."""
        at = f"@{self.config.revision}" if self.config.revision else ""
        return (self.config.name_or_path + at,)

    def train(self, mode: bool = True) -> HuggingFaceBackbone:  # noqa: FBT001
        """Keep the dropout of frozen modules off, so they always return the same."""
        super().train(mode and not self.frozen)
        if not self._trains_vision:
            self.model.eval()
            self.published.language.train(self.training)
        return self

    def freeze(self) -> None:
        """See `Backbone.freeze`."""
        super().freeze()
        self.eval()

    @property
    def _trains_vision(self) -> bool:
        return self.config.lora.where == "all"

    def _encode(self, images: Tensor) -> dict[str, Tensor]:
        """(B, cameras, H, W, 3) uint8 -> name -> (B, cameras x tokens, D)."""
        published = self.published
        features = published.family.encode(self.model, published.fit(images.flatten(0, 1)))
        return {name: value.reshape(len(images), -1, value.shape[-1]) for name, value in features.items()}

    def embed_prompt(self, prepared: Mapping[str, Tensor]) -> Prompt:
        """Embed images and question, which come before reasoning and latents.

        Args:
            prepared: from `prepare`.
        """
        features = {name: value for name, value in prepared.items() if name not in ("tokens", "images")}
        if "images" in prepared:
            features = self._encode(prepared["images"])
        tokens = prepared["tokens"]
        shared_padding = int((tokens == PADDING).sum(dim=1).min())
        tokens = tokens[:, shared_padding:]
        is_image = tokens == self.published.image_token
        embeddings = self.reader.embed(tokens)
        seen = features[IMAGE].to(embeddings.dtype)
        return Prompt(
            embeddings=embeddings.masked_scatter(is_image.unsqueeze(-1), seen),
            mask=tokens != PADDING,
            is_image=is_image,
            features=features,
        )

    def _read(self, prompt: Prompt, latents: Tensor) -> tuple[Tensor, States]:
        """Return generated tokens, (B, N), and the states of prompt, reasoning and latents."""
        if self.vocabulary is None:
            tokens = prompt.mask.new_zeros((len(prompt.mask), 0), dtype=torch.int64)
            return tokens, self.reader.read(prompt, tokens=tokens, latents=latents)
        reasoning = self._reason(prompt)
        if torch.is_grad_enabled():  # choosing words has no gradient, their states have
            return reasoning.tokens, self.reader.read(prompt, tokens=reasoning.tokens, latents=latents)
        return reasoning.tokens, self.reader.finish(prompt, reasoning, latents)

    def _reason(self, prompt: Prompt) -> Reasoning:
        language = self.published.language
        training = language.training
        language.eval()  # gradient checkpointing keeps no keys and values
        try:
            return self.reader.reason(prompt, at_most=self.config.reasoning_tokens)
        finally:
            language.train(training)

    @staticmethod
    def _fill(states: Tensor, tokens: Tensor, silence: Tensor) -> Tensor:
        """(B, N + L, D) states of reasoning and latents, with `silence` in place of padding."""
        empty = nn.functional.pad(tokens == PADDING, (0, states.shape[1] - tokens.shape[1]))
        return torch.where(empty.unsqueeze(-1), silence, states)
