"""Runs a language model on prepared embeddings: hidden states, and text if it is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rdvla.backbone.base import PADDING
from rdvla.backbone.huggingface.families import Family

States = tuple[Tensor, ...]  # of the chosen layers, each (B, T, D)


@dataclass(frozen=True)
class Prompt:
    """Images and question as the language model takes them, padded on the left."""

    embeddings: Tensor  # (B, T, D)
    mask: Tensor  # (B, T) bool, False for padding
    is_image: Tensor  # (B, T) bool
    features: Mapping[str, Tensor]  # of the images, by name; some families take more than `embeddings`

    @property
    def length(self) -> int:
        """T."""
        return self.mask.shape[1]


@dataclass(frozen=True)
class Reasoning:
    """Text generated after a prompt, with the states and the KV cache of its generation."""

    tokens: Tensor  # (B, N) int64; PADDING from a sample's end of text on
    states: list[States]  # of the prompt and of all tokens but the last, an entry per run
    cache: Any  # keys and values of the same tokens


class LanguageReader:
    """Runs sequences through a language model, at once or token by token on a KV cache.

    Args:
        language: maps embeddings to hidden states.
        vocabulary: maps hidden states to logits of the next token; None if no text is generated.
        family: positions and attention.
        layers: hidden states to return.
        grid: image tokens along one side of an image.
        ends: token ids that end a text.
    """

    def __init__(
        self,
        language: Any,
        vocabulary: nn.Module | None,
        *,
        family: Family,
        layers: Sequence[int],
        grid: int,
        ends: Sequence[int],
    ) -> None:
        self.language, self.vocabulary = language, vocabulary
        self.family, self.layers, self.grid = family, tuple(layers), grid
        self.ends = tuple(ends)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, D); padding gets an embedding that nothing attends to."""
        embeddings: Tensor = self.language.get_input_embeddings()(tokens.clamp(min=0))
        return embeddings

    def read(self, prompt: Prompt, *, tokens: Tensor, latents: Tensor) -> States:
        """Return the hidden states of [prompt ; tokens ; latents], with gradient.

        Args:
            prompt: images and question.
            tokens: (B, N), see `Reasoning`.
            latents: (B, L, D).
        """
        embeddings = torch.cat([prompt.embeddings, self.embed(tokens), latents], dim=1)
        return self._states(self._run(prompt, embeddings, tokens=tokens, latents=latents.shape[1]))

    @torch.no_grad()
    def reason(self, prompt: Prompt, *, at_most: int) -> Reasoning:
        """Continue a prompt with the likeliest tokens, at most N; keys and values are kept.

        A sample that has ended gets no more tokens; generation stops once every sample has ended.
        """
        assert self.vocabulary is not None
        from transformers import DynamicCache

        cache = DynamicCache(config=self.language.config)
        tokens = prompt.mask.new_full((len(prompt.mask), 0), 0, dtype=torch.int64)
        new, states = prompt.embeddings, []
        going = torch.ones_like(prompt.mask[:, 0])
        for step in range(at_most):
            output = self._run(prompt, new, tokens=tokens, cache=cache)
            states.append(self._states(output))
            token = self.vocabulary(output.last_hidden_state[:, -1]).argmax(dim=-1)
            for end in self.ends:
                going = going & (token != end)
            tokens = torch.cat([tokens, token.where(going, PADDING).unsqueeze(1)], dim=1)
            new = self.embed(tokens[:, -1:])
            if not bool(going.any()):
                rest = at_most - step - 1
                tokens = torch.cat([tokens, tokens.new_full((len(tokens), rest), PADDING)], dim=1)
                break
        return Reasoning(tokens, states, cache)

    @torch.no_grad()
    def finish(self, prompt: Prompt, reasoning: Reasoning, latents: Tensor) -> States:
        """Return the same as `read`, from the KV cache of `reason`: only the tokens after it run."""
        read = sum(states[0].shape[1] for states in reasoning.states) - prompt.embeddings.shape[1]
        embeddings = torch.cat([self.embed(reasoning.tokens[:, read:]), latents], dim=1)
        output = self._run(
            prompt, embeddings, tokens=reasoning.tokens, latents=latents.shape[1], cache=reasoning.cache
        )
        segments = [*reasoning.states, self._states(output)]
        return tuple(torch.cat(layer, dim=1) for layer in zip(*segments, strict=True))

    def _run(
        self, prompt: Prompt, new: Tensor, *, tokens: Tensor, latents: int = 0, cache: Any = None
    ) -> Any:
        """Run the last tokens of [prompt ; tokens ; latents], whose embeddings are `new`."""
        batch, prefix = prompt.mask.shape
        mask = torch.cat([prompt.mask, tokens >= 0, prompt.mask.new_ones(batch, latents)], dim=1)
        is_image = nn.functional.pad(prompt.is_image, (0, mask.shape[1] - prefix))
        queries = new.shape[1]
        positions = self.family.positions(mask, is_image, self.grid)[..., -queries:]
        attention = self.family.attention(
            mask, prefix=prefix, queries=queries, language=self.language, dtype=new.dtype
        )
        from_start = queries == mask.shape[1]
        return self.language(
            inputs_embeds=new,
            attention_mask=attention,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=True,
            **(self.family.inputs(prompt.features, is_image) if from_start else {}),
        )

    def _states(self, output: Any) -> States:
        return tuple(output.hidden_states[layer] for layer in self.layers)
