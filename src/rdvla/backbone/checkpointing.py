"""Gradient checkpointing of transformers' models."""

from __future__ import annotations

from typing import Any


def checkpoint_activations(model: Any) -> None:
    """Make a model of transformers compute activations twice in training instead of keeping them."""
    # The name changed in transformers 5.2x; without arguments both mean the same.
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()
