"""Configurations and command lines: dataclasses and typed functions filled from files and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.config.command import More, Number, Pairs, call
    from rdvla.config.documents import read_yaml
    from rdvla.config.load import decode_config, encode_config, load_config, save_config
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "More", "Number", "Pairs", "call", "decode_config", "encode_config", "load_config", "read_yaml",
    "save_config",
]  # fmt: skip
