"""What every backbone on models published for transformers needs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Entries of a model's configuration that decide nothing about what it computes.
UNRELATED = ("_name_or_path", "transformers_version")
PROBE = "pick up the cup"  # an instruction whose tokens tell tokenizers apart


def image_scale(
    name_or_path: str, *, revision: str | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per colour, 0..1, from a published image processor's configuration.

    The file is read directly: some versions of transformers make the processor only with torchvision.

    Args:
        name_or_path: hub id or folder.
        revision: on the hub.

    Raises:
        OSError: there is no such model, or it has no image processor.
        ValueError: the configuration does not say mean or standard deviation.
    """
    from transformers.image_processing_base import ImageProcessingMixin

    options = ImageProcessingMixin.get_image_processor_dict(name_or_path, revision=revision)[0]
    try:
        return tuple(options["image_mean"]), tuple(options["image_std"])
    except KeyError as error:
        raise ValueError(f"the image processor's configuration does not say {error}") from error


def describe_architecture(model: Any) -> dict[str, Any]:
    """Return the configuration of a model of transformers without its name, place and versions."""
    described: dict[str, Any] = _without_names(json.loads(model.config.to_json_string(use_diff=False)))
    return described


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_names(inner) for name, inner in value.items() if name not in UNRELATED}
    return [_without_names(inner) for inner in value] if isinstance(value, list) else value


def checkpoint_activations(model: Any) -> None:
    """Let a model of transformers compute activations twice in training instead of keeping them."""
    # The name changed in transformers 5.2x; without arguments both mean the same.
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()


def describe_tokenizer(tokenizer: Any) -> dict[str, Any]:
    """Return what decides the tokens: a digest of the vocabulary, and the tokens of a sentence."""
    words = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    return {"vocabulary": hashlib.sha256(words).hexdigest()[:16], "probe": tokenizer(PROBE)["input_ids"]}
