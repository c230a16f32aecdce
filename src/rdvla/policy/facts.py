"""Facts about a policy as plain values, for `rdvla info`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rdvla.backbone.pretrained import PROBE
from rdvla.config import encode_config
from rdvla.engine.steps import kept_per_query
from rdvla.policy.policy import RDVLAPolicy
from rdvla.policy.trainable import count_parameters
from rdvla.types import Observation

MIB = 2**20


def describe(policy: RDVLAPolicy) -> dict[str, Any]:
    """Return parts, sizes, inputs, tokens, memory, statistics and configuration of a policy.

    Tokens and memory belong to one query, which is run once on blank images.
    """
    head = policy.config.head
    return {
        "parts": {name: count_parameters(part) for name, part in policy.named_children()}
        | {"total": count_parameters(policy)},
        "head": {name: count_parameters(part) for name, part in policy.head.named_children()},
        "base_models": list(policy.backbone.base_models()),
        "levels": head.levels_by_part,
        "sizes": {
            "hidden_dim (D)": policy.head.state_shape[-1],
            "chunk_size (K)": head.chunk_size,
            "action_dim (A)": head.action_dim,
            "context_dim": head.context_width,
        },
        "running": {
            "stop": policy.config.stop,
            "start": policy.config.start,
            "execution": policy.config.execution,
        },
        "inputs": {
            **{f"camera {camera}": text for camera, text in policy.config.fits.in_words().items()},
            "state_dim": policy.config.state_dim,
        },
        "robot": encode_config(policy.config.robot),
        **_query_facts(policy),
        "statistics": {
            feature: {name: _floats(entries[name]) for name in _shown_bounds(entries)}
            for feature, entries in policy.statistics.items()
        },
        "config": encode_config(policy.config),
    }


def _shown_bounds(entries: Mapping[str, Any]) -> tuple[str, ...]:
    """What the normalisation uses: its bounds, or the quantiles of policies that have none."""
    return tuple(
        name for name in (("low", "high") if "low" in entries else ("q01", "q99")) if name in entries
    )


@torch.no_grad()
def _query_facts(policy: RDVLAPolicy) -> dict[str, Any]:
    """Tokens that the head reads, and MiB of weights and of the tensors that a query keeps."""
    config = policy.config
    blank = torch.zeros(1, config.image_size, config.image_size, 3, dtype=torch.uint8)
    state = torch.zeros(1, config.state_dim, device=policy.device)
    observation = Observation(images=dict.fromkeys(config.cameras, blank), state=state, instruction=[PROBE])
    context = policy.context_from(policy.frozen_inputs(observation), state)
    kept = kept_per_query(policy.head, context)
    level = config.head.levels[0]
    return {
        "tokens": {
            "vision (M)": context.vision[level].shape[1],
            "latents (L)": context.latents[level].shape[1],
            "proprioception": context.proprio.shape[1],
        },
        "memory_mib": {
            "weights": _mib(policy.parameters()),
            "context of a query": _mib([*context.vision.values(), *context.latents.values()]),
            "keys and values of a query": _mib(kept),
            "state, at any depth": _mib([policy.initial_state(1)]),
        },
    }


def _mib(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors) / MIB


def _floats(values: Any) -> list[float]:
    return [float(value) for value in values]
