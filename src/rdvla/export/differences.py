"""How far an export's actions are from the policy's, on many images and at several depths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.control import Stop
from rdvla.policy import RDVLAPolicy
from rdvla.policy.records import trained_instructions
from rdvla.runtime import OnnxPolicy
from rdvla.types import Observation, Prediction

SAMPLES = 32  # without a dataset
DEPTHS = (1, 4, 8, 16)  # besides the policy's own rule
SENTENCES = ("pick up the cup", "open the drawer", "push the puck")
USUAL = 0.95  # share of the numbers in actions that differ by no more than `Difference.usual`
# Photographs: power falls with the square of the frequency, and colours differ less than brightness.
GREY, CONTRAST, COLOUR = 0.45, 0.22, 0.3
MADE_UP = f"{SAMPLES} made-up images with the spectrum of photographs"
Run = Callable[[Stop], Prediction]


@dataclass(frozen=True)
class Difference:
    """How far two ways to run a policy are apart under one stop rule, in normalised units."""

    stop: str
    largest: float  # of all numbers in all actions
    usual: float  # 95% of them differ by at most this
    other_depths: int  # samples that stop at another depth
    samples: int


def compare_runs(policy: RDVLAPolicy, first: Run, second: Run) -> list[Difference]:
    """Compare at the depths of `DEPTHS` and under the policy's own rule.

    Args:
        policy: whose rule and units count.
        first: predicts under a stop rule, actions in the robot's units.
        second: the same.
    """
    found = []
    for stop in dict.fromkeys((*map(Stop.fixed, DEPTHS), policy.stop)):
        ours, theirs = first(stop), second(stop)
        apart = (_normalised(policy, ours) - _normalised(policy, theirs)).abs().flatten()
        depths = np.asarray(ours.depth) != np.asarray(theirs.depth)
        usual = float(apart.kthvalue(max(1, round(USUAL * len(apart)))).values)
        found.append(Difference(stop.describe(), float(apart.max()), usual, int(depths.sum()), len(depths)))
    return found


def of_export(plain: RDVLAPolicy, exported: OnnxPolicy, observation: Observation) -> list[Difference]:
    """Compare an export with its policy in float32."""
    start = _start(plain, observation)
    return compare_runs(
        plain,
        lambda stop: exported.predict(observation, stop=stop, initial_state=start.numpy()),
        lambda stop: plain.predict(observation, stop=stop, initial_state=start),
    )


def of_float32(policy: RDVLAPolicy, plain: RDVLAPolicy, observation: Observation) -> list[Difference]:
    """Compare a policy with its copy in float32; nothing if they are the same."""
    start = _start(plain, observation)
    found = compare_runs(
        plain,
        lambda stop: policy.predict(observation, stop=stop, initial_state=start.to(policy.device)),
        lambda stop: plain.predict(observation, stop=stop, initial_state=start),
    )
    return found if any(each.largest for each in found) else []


def made_up_observation(policy: RDVLAPolicy) -> Observation:
    """Return images like photographs, with proprioception and instructions as in training."""
    trained = trained_instructions(policy.records) or SENTENCES
    config, generator = policy.config, np.random.default_rng(0)
    square = (config.image_size, config.image_size)
    state = torch.from_numpy(generator.uniform(-1, 1, (SAMPLES, config.state_dim)).astype(np.float32))
    return Observation(
        images={
            camera: np.stack(
                [natural_image(*config.camera_sizes.get(camera, square), generator) for _ in range(SAMPLES)]
            )
            for camera in config.cameras
        },
        state=policy.state_normalizer.unnormalize(state),
        instruction=[trained[sample % len(trained)] for sample in range(SAMPLES)],
    )


def natural_image(height: int, width: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Return noise with the spectrum, brightness and contrast of a photograph, (H, W, 3)."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # brightness comes later
    layers = []
    for _ in range(4):  # one for all colours, one for each
        noise = np.fft.fft2(generator.standard_normal((height, width))) / frequency
        layer = np.fft.ifft2(noise).real
        layers.append(layer / max(float(layer.std()), 1e-12))
    shared, *own = layers
    image = np.stack([shared + COLOUR * layer for layer in own], axis=-1)
    return np.clip(255 * (GREY + CONTRAST * image), 0, 255).astype(np.uint8)


def _start(policy: RDVLAPolicy, observation: Observation) -> Tensor:
    return policy.initial_state(observation.batch_size, torch.Generator().manual_seed(0))


def _normalised(policy: RDVLAPolicy, prediction: Prediction) -> Tensor:
    return policy.action_normalizer.normalize(torch.as_tensor(prediction.actions).cpu())
