"""Prompts as token ids, with positions for the images' features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rdvla.backbone.base import PADDING
from rdvla.backbone.huggingface.families import Family
from rdvla.errors import ConfigError
from rdvla.processing.text import Remembered, shown


class PromptWriter:
    """Writes a family's prompt around an instruction, padded to one length, so a cache can hold it.

    Args:
        family: how the prompt is written.
        tokenizer: of the published model.
        question: the text; {instruction} stands for the instruction in lower case.
        image_token: token id that image features replace.
        image_tokens: their number per image.
        max_text_tokens: longest prompt, without image tokens.
    """

    def __init__(
        self,
        family: Family,
        tokenizer: Any,
        *,
        question: str,
        image_token: int,
        image_tokens: int,
        max_text_tokens: int,
    ) -> None:
        self._family, self._tokenizer, self._question = family, tokenizer, question
        self._image = [image_token] * image_tokens
        self._max_text_tokens = max_text_tokens
        self._known = Remembered[tuple[str, int], Tensor]()

    def rows(self, instructions: Sequence[str], *, images: int) -> Tensor:
        """B instructions -> (B, max_text_tokens + image tokens) int64, `PADDING` on the left.

        Raises:
            ConfigError: a prompt has more text than `max_text_tokens`, or names the model's image token.
        """
        return torch.stack(
            [self._known.recall((instruction, images), self._write) for instruction in instructions]
        )

    def text(self, tokens: Tensor) -> list[str]:
        """(B, N) token ids -> B texts."""
        return [self._tokenizer.decode(row[row != PADDING], skip_special_tokens=True) for row in tokens]

    def _write(self, of: tuple[str, int]) -> Tensor:
        instruction, images = of
        question = self._question.replace("{instruction}", " ".join(instruction.lower().split()))
        texts = self._family.texts(question, images=images, bos=self._tokenizer.bos_token or "")
        ids = [self._tokenizer(text, add_special_tokens=False).input_ids if text else [] for text in texts]
        length = sum(len(tokens) for tokens in ids)
        if length > self._max_text_tokens:
            raise ConfigError(
                f"the prompt has {length} tokens of text, backbone.max_text_tokens is "
                f"{self._max_text_tokens}: {shown(instruction)}"
            )
        if any(self._image[0] in tokens for tokens in ids):
            raise ConfigError(
                f"the prompt must not hold the model's own token for images: {shown(instruction)}"
            )
        row = list(ids[0])
        for tokens in ids[1:]:
            row += [*self._image, *tokens]
        return torch.tensor([PADDING] * (self._max_text_tokens - length) + row)
