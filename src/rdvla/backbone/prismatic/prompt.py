"""The prompt that published policies were trained with, and its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdvla.backbone.base import PADDING
from rdvla.errors import ConfigError, InputError
from rdvla.processing.text import Remembered, shown

PROMPT = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat action should the robot take to {instruction}?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
STOP_TOKEN = 2  # closes the sequence of published policies


class PromptTokenizer:
    """Turns instructions into prompt tokens, padded on the right to one length, so a cache can hold them.

    Args:
        tokenizer: of transformers; it must know the chat tokens.
        max_tokens: longest prompt.
        vocab_size: of the language model.

    Raises:
        ConfigError: the tokenizer splits a chat token, or belongs to another language model.
    """

    def __init__(self, tokenizer: Any, *, max_tokens: int, vocab_size: int) -> None:
        self.tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._known = Remembered[str, Tensor]()
        for token in CHAT_TOKENS:
            ids = tokenizer(token)["input_ids"]
            if len(ids) != 1:
                raise ConfigError(f"the tokenizer splits {token!r} into {len(ids)} tokens: is it a Qwen one?")
        largest = max(tokenizer(PROMPT)["input_ids"])
        if largest >= vocab_size:
            raise ConfigError(
                f"the tokenizer gives token {largest}, but the language model knows {vocab_size} tokens"
            )

    def __call__(self, instructions: Sequence[str]) -> Tensor:
        """B sentences -> (B, max_tokens) int64, `PADDING` behind the prompt.

        Raises:
            InputError: an instruction is empty or too long.
        """
        return torch.stack([self._known.recall(sentence, self._read) for sentence in instructions])

    def _read(self, sentence: str) -> Tensor:
        if not sentence.strip():
            raise InputError("an instruction must not be empty")
        ids = self.tokenizer(PROMPT.format(instruction=sentence.lower()))["input_ids"]
        if len(ids) > self._max_tokens:
            raise InputError(
                f"the prompt of an instruction must have at most {self._max_tokens} tokens "
                f"(backbone.max_prompt_tokens), got {len(ids)}: {shown(sentence)}"
            )
        row = torch.full((self._max_tokens,), PADDING)
        row[: len(ids)] = torch.tensor(ids)
        return row


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer from a folder; code in the folder is never run.

    Raises:
        ConfigError: there is none, it is damaged, or transformers would split texts in another way.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, Qwen2Config

    if not (folder / "tokenizer_config.json").is_file():
        raise ConfigError(
            f"{folder} holds no tokenizer (tokenizer_config.json, tokenizer.json): copy the files of the "
            "published model there"
        )
    stored = folder / "tokenizer.json"
    try:
        # transformers does not know the model type in the folder's config.json.
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=Qwen2Config(), local_files_only=True, trust_remote_code=False
        )
        original = Tokenizer.from_file(str(stored)) if stored.is_file() else None
    except Exception as error:  # a damaged tokenizer.json raises a bare Exception
        raise ConfigError(f"the tokenizer in {folder} cannot be read: {error}") from error
    if original is not None:
        original.no_padding()
        original.no_truncation()
        # transformers keeps the vocabulary of the file, but may split texts by its own rules.
        if original.encode(PROMPT).ids != tokenizer(PROMPT)["input_ids"]:
            raise ConfigError(f"transformers reads {stored} as a tokenizer that splits texts in another way")
    return tokenizer
