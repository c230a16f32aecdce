"""The heads of tests/reference_vectors, with inputs and outputs of an independent implementation."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rdvla.heads import Context, RecurrentDepthHead
from rdvla.interop import load_published_head

VECTORS = Path(__file__).parents[1] / "reference_vectors"


def load_case(name: str) -> tuple[RecurrentDepthHead, Context, dict[str, Tensor], dict[str, int]]:
    """Load a head, the context of its inputs, the expected outputs, and the depths of the adaptive rule."""
    folder = VECTORS / name
    head, projector = load_published_head(folder)
    expected = load_file(folder / "expected.safetensors")
    depths = json.loads((folder / "expected.json").read_text())["adaptive_iterations"]
    vision, latents = expected["vision_hidden_states"], expected["latent_hidden_states"]
    with torch.no_grad():
        proprio = projector(expected["proprio"])
    layers = range(vision.shape[1])
    context = head.context(
        vision={layer: vision[:, layer] for layer in layers},
        latents={layer: latents[:, layer] for layer in layers},
        proprio=proprio,
    )
    return head, context, expected, depths
