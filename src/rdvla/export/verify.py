"""Compares an export with the policy it was made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.errors import ConfigError, RDVLAError
from rdvla.export.observed import features_of
from rdvla.head import FixedDepth, RecurrentDepthHead, StopRule
from rdvla.head import Prediction as TorchPrediction
from rdvla.policy import RDVLAPolicy
from rdvla.processing import Observation
from rdvla.runtime import OnnxHead, OnnxPolicy, Prediction, Stop
from rdvla.runtime.stop import KINDS, PARAMETERS

BATCH = 3
DEPTH = 8
TOLERANCE = 1e-4  # of a float32 export, normalised units
SENTENCES = ("pick up the cup", "open the drawer", "push the puck")
AskTorch = Callable[[StopRule], TorchPrediction]
AskOnnx = Callable[[Stop], Prediction]
Normalize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Check:
    """How far the two are apart under one stop rule."""

    rule: str
    difference: float  # largest of any action, normalised units
    depths: tuple[int, ...]  # of the export
    expected: tuple[int, ...]  # of the policy

    def require(self) -> None:
        """Raise `RDVLAError` where a float32 export is not the policy."""
        if not self.difference <= TOLERANCE or self.depths != self.expected:
            raise RDVLAError(
                f"the export does not act as the policy under {self.rule}: actions differ by up to "
                f"{self.difference:.1e} (at most {TOLERANCE:.0e} is expected), depths are "
                f"{list(self.depths)} instead of {list(self.expected)}. Nothing was written; please report it"
            )


def as_stop(rule: StopRule) -> Stop:
    """A rule of the head as the runtime knows it.

    Raises:
        ConfigError: it is of a kind that the exported loop lacks.
    """
    if rule.name not in KINDS:
        raise ConfigError(
            f"the rule {rule.describe()!r} cannot be exported, only {', '.join(KINDS)}: set depth in the "
            "policy's config.json to one of them"
        )
    numbers = {name: getattr(rule, name) for name in PARAMETERS[rule.name]}
    return Stop(rule.name, min_depth=rule.min_depth, max_depth=rule.max_depth, **numbers)


def check_policy(policy: RDVLAPolicy, exported: OnnxPolicy) -> list[Check]:
    """Both on one random observation, at a fixed depth and under the policy's own rule."""
    observation = random_observation(policy)
    start = policy.initial_state(BATCH, torch.Generator().manual_seed(0))
    images = {camera: image.numpy() for camera, image in observation.images.items()}

    def ask_torch(rule: StopRule) -> TorchPrediction:
        return policy.predict(observation, depth=rule, initial_state=start)

    def ask_onnx(stop: Stop) -> Prediction:
        return exported.predict(
            images, observation.state.numpy(), SENTENCES, depth=stop, initial_state=start.numpy()
        )

    return _checks(policy.stop_rule, ask_torch, ask_onnx, policy.action_normalizer.normalize)


def check_head(head: RecurrentDepthHead, rule: StopRule, exported: OnnxHead) -> list[Check]:
    """Both on random features, at a fixed depth and under a rule."""
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

    def ask_torch(rule: StopRule) -> TorchPrediction:
        prediction: TorchPrediction = head(context, depth=rule, initial_state=start)
        return prediction

    def ask_onnx(stop: Stop) -> Prediction:
        return exported(features, depth=stop, initial_state=start.numpy())

    return _checks(rule, ask_torch, ask_onnx, lambda actions: actions)


def random_observation(policy: RDVLAPolicy) -> Observation:
    """Noise to the cameras, proprioception as it was in training, and one instruction each."""
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
    """Of two (B, K, A) in the units that come out, in normalised units."""
    return float((normalize(first) - normalize(second)).abs().max())


def _checks(rule: StopRule, ask_torch: AskTorch, ask_onnx: AskOnnx, normalize: Normalize) -> list[Check]:
    checks = []
    for tried in (FixedDepth(DEPTH), rule):
        expected, found = ask_torch(tried), ask_onnx(as_stop(tried))
        checks.append(
            Check(
                rule=tried.describe(),
                difference=largest_difference(_tensor(found.actions), expected.actions, normalize),
                depths=tuple(found.depth.tolist()),
                expected=tuple(expected.depth.tolist()),
            )
        )
    return checks


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(array)
