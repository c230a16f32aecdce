"""Encoders of instructions, a vector each: trained from scratch over bytes, or a frozen published model."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rdvla.backbone.base import InstructionSteps
from rdvla.backbone.compact.config import TEXT_HEADS
from rdvla.backbone.pretrained import describe_architecture, describe_tokenizer
from rdvla.errors import ConfigError, InputError
from rdvla.processing.text import Remembered, instruction_bytes, shown

PADDING = 0  # bytes are shifted by 1 to make room for it


class TextEncoder(nn.Module, ABC):
    """Instructions to (B, width)."""

    published: ClassVar[bool]  # frozen, and loaded by name
    width: int

    @abstractmethod
    def prepare(self, sentences: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """See `Backbone.prepare`."""

    @abstractmethod
    def check(self, sentences: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""

    @abstractmethod
    def export_steps(self) -> InstructionSteps:
        """See `Backbone.export_steps`."""

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`."""
        return {}

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {}


class ByteEncoder(TextEncoder):
    """A small transformer over UTF-8 bytes, trained from scratch; it knows only the words of its training."""

    published = False

    def __init__(self, *, width: int, max_bytes: int) -> None:
        super().__init__()
        self.width, self.max_bytes = width, max_bytes
        self.embedding = nn.Embedding(257, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.randn(max_bytes, width) * 0.1)
        self.layer = nn.TransformerEncoderLayer(
            width, nhead=TEXT_HEADS, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """(B, max_bytes) int64: lower-cased UTF-8 bytes + 1, padded with 0.

        Raises:
            ValueError: a sentence is empty or longer than `max_bytes`.
        """
        tokens = torch.full((len(sentences), self.max_bytes), PADDING)
        for row, sentence in enumerate(sentences):
            data = instruction_bytes(sentence, longest=self.max_bytes)
            tokens[row, : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).long() + 1
        return tokens

    def check(self, sentences: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""
        for sentence in sentences:
            data = instruction_bytes(sentence, longest=sys.maxsize)
            if len(data) > self.max_bytes:
                raise ConfigError(
                    f"the instruction {shown(sentence)} has {len(data)} bytes, the text encoder reads "
                    f"{self.max_bytes}: set policy.backbone.max_instruction_bytes={len(data)}"
                )

    def prepare(self, sentences: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Tokenize."""
        return {"text_bytes": self.tokenize(sentences).to(device)}

    def export_steps(self) -> InstructionSteps:
        """See `Backbone.export_steps`."""
        return InstructionSteps(self.read, self.width, tokens=self.max_bytes, longest=self.max_bytes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, max_bytes) -> (B, width). A batch holds few different sentences; encode each once."""
        sentences, which = torch.unique(tokens, dim=0, return_inverse=True)
        return self.read(sentences)[which]

    def read(self, tokens: Tensor) -> Tensor:
        """(B, max_bytes) -> (B, width), without the search for equal sentences."""
        padded = tokens == PADDING
        read = self.norm(self.layer(self.embedding(tokens) + self.positions, src_key_padding_mask=padded))
        weights = (~padded).to(read.dtype).unsqueeze(-1)
        pooled: Tensor = (read * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled


class PretrainedTextEncoder(TextEncoder):
    """Frozen sentence embedding of a text model of transformers (MiniLM, ...), a hub id or a folder.

    Mean-pooled and scaled to one length, as sentence-transformers models were trained.
    """

    published = True

    def __init__(self, name_or_path: str) -> None:
        super().__init__()
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
            model = AutoModel.from_pretrained(name_or_path, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"backbone.pretrained_text_encoder: {name_or_path}: {error}") from error
        self.model = model.eval().requires_grad_(False)
        self.width = self.model.config.hidden_size
        # Tokens that the model takes; None: no limit.
        self.longest: int | None = getattr(self.model.config, "max_position_embeddings", None)
        self._known = Remembered[str, Tensor]()

    def check(self, sentences: Sequence[str]) -> None:
        """See `Backbone.check_instructions`."""
        for sentence in sentences:
            self._tokens(sentence)

    def prepare(self, sentences: Sequence[str], device: torch.device) -> dict[str, Tensor]:  # noqa: ARG002
        """Embed, on the model's device."""
        return {"text": self.embed(sentences)}

    def preparation(self) -> dict[str, Any]:
        """See `Backbone.preparation`: the tokens."""
        return {"text": describe_tokenizer(self.tokenizer)}

    def architecture(self) -> dict[str, Any]:
        """See `Backbone.architecture`."""
        return {"text": describe_architecture(self.model)}

    def export_steps(self) -> InstructionSteps:
        """See `Backbone.export_steps`."""

        def read(tokens: Tensor) -> Tensor:
            return self.read(tokens, torch.ones_like(tokens))

        longest = self.longest or 0
        return InstructionSteps(read, self.width, tokens=None, longest=longest, tokenizer=self.tokenizer)

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """B sentences -> (B, width).

        Raises:
            InputError: a sentence is too long for the model.
        """
        # Sentence by sentence: a batch would pad them, and rounding would depend on who shares it.
        embedded = [self._known.recall(sentence, self._read) for sentence in sentences]
        return torch.stack([row.to(self.model.device) for row in embedded])

    def train(self, mode: bool = True) -> PretrainedTextEncoder:  # noqa: FBT001
        """Keep dropout off: a frozen encoder always returns the same."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def _read(self, sentence: str) -> Tensor:
        tokens = self._tokens(sentence)
        return self.read(tokens["input_ids"], tokens["attention_mask"])[0]

    def _tokens(self, sentence: str) -> Any:
        tokens = self.tokenizer([sentence], return_tensors="pt").to(self.model.device)
        if self.longest is not None and tokens["input_ids"].shape[1] > self.longest:
            raise InputError(
                f"an instruction must have at most {self.longest} tokens for "
                f"backbone.pretrained_text_encoder: {shown(sentence)}"
            )
        return tokens

    def read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, T) and their mask, 0 for padding -> (B, width)."""
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        direction = nn.functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)
        return direction * math.sqrt(self.width)  # the next layers expect entries of size 1
