"""Loads a vision-language model of transformers and drops what a backbone does not need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdvla.backbone.config import check_levels
from rdvla.backbone.huggingface.families import Family, make_family
from rdvla.backbone.huggingface.language import LanguageReader
from rdvla.backbone.pretrained import image_scale
from rdvla.errors import ConfigError

SAMPLED_TOKENS = 1024  # embeddings whose spread sets the size of new ones


@dataclass(frozen=True)
class PublishedModel:
    """A published model with its tokenizer and its scale of pixels."""

    model: Any  # image encoder and language model, without the vocabulary's logits
    vocabulary: nn.Module | None  # hidden states -> logits of the next token; None: no text is generated
    tokenizer: Any
    family: Family
    image_size: int  # pixels, square, that the image encoder takes
    mean: tuple[float, ...]  # per colour, 0..1, subtracted from the pixels
    std: tuple[float, ...]  # per colour, that they are divided by then
    ends: tuple[int, ...]  # token ids that end a text

    @property
    def language(self) -> Any:
        """The language model."""
        return getattr(self.model, self.family.language)

    @property
    def width(self) -> int:
        """D, width of the hidden states."""
        return int(self.language.config.hidden_size)

    @property
    def grid(self) -> int:
        """Image tokens along one side of an image."""
        return self.image_size // self.family.token_pixels(self.model.config)

    @property
    def image_token(self) -> int:
        """The token id that image features replace."""
        return int(self.model.config.image_token_id)

    @torch.no_grad()
    def embedding_scale(self) -> float:
        """Return the standard deviation of the embeddings that enter the first layer."""
        embedding = self.language.get_input_embeddings()
        some = torch.arange(min(SAMPLED_TOKENS, embedding.num_embeddings), device=embedding.weight.device)
        return float(embedding(some).float().std())

    def fit(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, S, S), scaled and normalised as the image encoder was trained."""
        weight = next(self.model.parameters())
        pixels = images.permute(0, 3, 1, 2).float() / 255
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            pixels = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (
            torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std)
        )
        return ((pixels - mean) / std).to(weight.dtype)

    def reader(self, layers: tuple[int, ...]) -> LanguageReader:
        """Make the reader of some hidden states of the language model."""
        return LanguageReader(
            self.language, self.vocabulary, family=self.family, layers=layers, grid=self.grid, ends=self.ends
        )


def load_published(
    name_or_path: str,
    *,
    revision: str | None,
    dtype: torch.dtype,
    layers: tuple[int, ...],
    image_size: int | None,
    text: bool,
) -> PublishedModel:
    """Load a model from the hub or a folder; its code is never run, and only safetensors are read.

    Args:
        name_or_path: hub id or folder.
        revision: on the hub.
        dtype: of its weights.
        layers: hidden states that the head may read; layers above the last of them are dropped.
        image_size: pixels, square; None: as the model was trained.
        text: keep all layers and the vocabulary's logits, to generate text.

    Raises:
        ConfigError: there is no such model, its family is not supported, or a setting does not fit it.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    if not name_or_path:
        raise ConfigError("backbone.name_or_path is empty; name a vision-language model, or its folder")
    at = {"revision": revision, "trust_remote_code": False}  # by default transformers asks on the terminal
    try:
        config = AutoConfig.from_pretrained(name_or_path, **at)
        family = make_family(config.model_type)
        size = image_size or family.image_size(config)
        family.check_image_size(config, size)
        check_levels(layers, count=config.get_text_config().num_hidden_layers)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **at)
        _check_tokens(family, tokenizer, name_or_path)
        mean, std = image_scale(name_or_path, revision=revision)
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name_or_path, dtype=dtype, use_safetensors=True, output_loading_info=True, **at
        )
        full, found = loaded
        _check_complete(found, name_or_path)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"backbone.name_or_path: {name_or_path}: {error}") from error
    published = PublishedModel(
        model=full.model,
        vocabulary=full.get_output_embeddings() if text else None,
        tokenizer=tokenizer,
        family=family,
        image_size=size,
        mean=mean,
        std=std,
        ends=_ends(full.generation_config, tokenizer),
    )
    if not text and max(layers) < len(published.language.layers):
        family.cut(published.model, max(layers))
    return published


def _check_complete(found: Mapping[str, Any], name: str) -> None:
    """Refuse files that lack weights: transformers would draw them at random."""
    lacking = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
    if lacking:
        raise ConfigError(
            f"backbone.name_or_path: {name} lacks {len(lacking)} of the model's weights, such as {lacking[0]}"
        )


def _check_tokens(family: Family, tokenizer: Any, name: str) -> None:
    known = tokenizer.get_vocab()
    missing = [token for token in family.special if token not in known]
    if missing:
        raise ConfigError(f"backbone.name_or_path: the tokenizer of {name} lacks the token {missing[0]!r}")
    if family.uses_bos and tokenizer.bos_token is None:
        raise ConfigError(f"backbone.name_or_path: the tokenizer of {name} has no first token (bos_token)")


def _ends(generation: Any, tokenizer: Any) -> tuple[int, ...]:
    named = generation.eos_token_id if generation is not None else None
    ends = named if isinstance(named, list | tuple) else [named]
    return tuple(sorted({end for end in (*ends, tokenizer.eos_token_id) if end is not None}))
