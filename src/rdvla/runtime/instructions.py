"""Encodes instructions for the policy's graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import InputError, RDVLAError, missing_extra
from rdvla.processing.text import Remembered, instruction_bytes, shown
from rdvla.runtime.description import INSTRUCTION_GRAPH, TOKENIZER, Description
from rdvla.runtime.graph import Graph

Tokenize = Callable[[str], list[int]]


class Instructions:
    """Encodes each distinct sentence once, as long as it is remembered."""

    def __init__(self, folder: Path, description: Description, *, threads: int | None) -> None:
        self._tokenize = _tokenizer(folder, description)
        self._graph = Graph(folder / INSTRUCTION_GRAPH, threads=threads)
        self._known = Remembered[str, NDArray[np.float32]]()

    def encode(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Encode B sentences, (B, width).

        Raises:
            InputError: a sentence is empty or too long for the encoder.
        """
        return np.stack([self._known.recall(sentence, self._encode) for sentence in sentences])

    def _encode(self, sentence: str) -> NDArray[np.float32]:
        tokens = np.array([self._tokenize(sentence)], dtype=np.int64)
        encoded: NDArray[np.float32] = self._graph.run({"tokens": tokens})["text"][0]
        return encoded


def _tokenizer(folder: Path, description: Description) -> Tokenize:
    if description.tokenizer == "bytes":
        return partial(_byte_tokens, longest=description.longest_instruction)
    if description.tokenizer != "tokenizers":
        raise RDVLAError(
            f"{folder}: there is no tokenizer {description.tokenizer!r}: export the policy again"
        )
    tokenizer = _published_tokenizer(folder / TOKENIZER)
    return partial(_published_tokens, tokenizer=tokenizer, longest=description.longest_instruction)


def _byte_tokens(sentence: str, *, longest: int) -> list[int]:
    """Return UTF-8 bytes + 1, padded with 0 to the encoder's length."""
    data = instruction_bytes(sentence, longest=longest)
    return [byte + 1 for byte in data] + [0] * (longest - len(data))


def _published_tokens(sentence: str, *, tokenizer: Any, longest: int) -> list[int]:
    tokens: list[int] = tokenizer.encode(sentence).ids
    if longest and len(tokens) > longest:
        raise InputError(f"an instruction must have at most {longest} tokens: {shown(sentence)}")
    return tokens


def _published_tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise missing_extra("tokenizers", "runtime") from None
    tokenizer: Any = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
