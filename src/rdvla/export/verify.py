"""Compares an export with the policy it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.errors import RDVLAError
from rdvla.export.observed import features_of
from rdvla.heads import RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.runtime import OnnxHead, OnnxPolicy
from rdvla.types import Observation, Prediction

BATCH = 3
DEPTH = 8
TOLERANCE = 1e-4  # of a float32 export, normalised units
SENTENCES = ("pick up the cup", "open the drawer", "push the puck")
Ask = Callable[[Stop], Prediction]
Normalize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """How far export and policy are apart under one stop rule."""

    stop: str
    difference: float  # largest of any action, normalised units
    depths: tuple[int, ...]  # of the export
    expected: tuple[int, ...]  # of the policy

    def require(self) -> None:
        """Raise `RDVLAError` if a float32 export is not the policy."""
        if not self.difference <= TOLERANCE or self.depths != self.expected:
            raise RDVLAError(
                f"the export does not act as the policy under {self.stop}: actions differ by up to "
                f"{self.difference:.1e} (at most {TOLERANCE:.0e} is expected), depths are "
                f"{list(self.depths)} instead of {list(self.expected)}. Nothing was written; please report it"
            )


def check_policy(policy: RDVLAPolicy, exported: OnnxPolicy) -> list[Check]:
    """Compare both on one random observation, at a fixed depth and under the policy's own stop rule."""
    observation = random_observation(policy)
    start = policy.initial_state(BATCH, torch.Generator().manual_seed(0))

    def ask_torch(stop: Stop) -> Prediction:
        return policy.predict(observation, stop=stop, initial_state=start)

    def ask_onnx(stop: Stop) -> Prediction:
        return exported.predict(observation, stop=stop, initial_state=start.numpy())

    return _checks(policy.stop, ask_torch, ask_onnx, policy.action_normalizer.normalize)


def check_head(head: RecurrentDepthHead, stop: Stop, exported: OnnxHead) -> list[Check]:
    """Compare both on random features, at a fixed depth and under a stop rule."""
    generator = torch.Generator().manual_seed(0)
    levels, width = head.config.levels, head.config.context_width
    vision, latents = (
        {level: torch.randn(BATCH, tokens, width, generator=generator) for level in levels}
        for tokens in (16, 8)
    )
    proprio = torch.randn(BATCH, 1, width, generator=generator)
    context = head.context(vision=vision, latents=latents, proprio=proprio)
    start = head.initial_state(BATCH, generator).detach()
    features = features_of(context)

    engine = Engine(head)

    def ask_torch(stop: Stop) -> Prediction:
        return engine.predict(context, stop=stop, initial_state=start)

    def ask_onnx(stop: Stop) -> Prediction:
        return exported.predict(features, stop=stop, initial_state=start.numpy())

    return _checks(stop, ask_torch, ask_onnx, lambda actions: actions)


def random_observation(policy: RDVLAPolicy) -> Observation:
    """Return noise for the cameras, proprioception as in training, and one instruction per sample."""
    config, generator = policy.config, torch.Generator().manual_seed(0)
    size = (BATCH, config.image_size, config.image_size, 3)
    state = torch.rand(BATCH, config.state_dim, generator=generator) * 2 - 1
    return Observation(
        images={
            camera: torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
            for camera in config.cameras
        },
        state=policy.state_normalizer.unnormalize(state),
        instruction=SENTENCES,
    )


def largest_difference(first: Tensor, second: Tensor, normalize: Normalize) -> float:
    """Return the largest difference of two (B, K, A) in normalised units."""
    return float((normalize(first) - normalize(second)).abs().max())


def _checks(stop: Stop, ask_torch: Ask, ask_onnx: Ask, normalize: Normalize) -> list[Check]:
    checks = []
    for tried in (Stop.fixed(DEPTH), stop):
        expected, found = ask_torch(tried), ask_onnx(tried)
        checks.append(
            Check(
                stop=tried.describe(),
                difference=largest_difference(_tensor(found.actions), expected.actions, normalize),
                depths=tuple(found.depth.tolist()),
                expected=tuple(expected.depth.tolist()),
            )
        )
    return checks


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array)
