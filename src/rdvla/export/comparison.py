"""Compares an export with the policy or head that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rdvla.control import Stop
from rdvla.engine import Engine
from rdvla.export.folder import Check
from rdvla.export.interface import features_of
from rdvla.heads import Context, RecurrentDepthHead
from rdvla.policy import RDVLAPolicy
from rdvla.policy.records import trained_instructions
from rdvla.runtime import OnnxHead, OnnxPolicy
from rdvla.types import Observation, Prediction

BATCH = 3
DEPTH = 8
SENTENCES = ("pick up the cup", "open the drawer", "push the puck")
Predict = Callable[[Stop], Prediction]
Normalize = Callable[[Tensor], Tensor]


def compare_policy(policy: RDVLAPolicy, exported: OnnxPolicy) -> list[Check]:
    """Compare both on a random observation, at a fixed depth and under the policy's own stop rule."""
    observation = random_observation(policy)
    start = policy.initial_state(BATCH, torch.Generator().manual_seed(0))

    def predict_torch(stop: Stop) -> Prediction:
        return policy.predict(observation, stop=stop, initial_state=start)

    def predict_onnx(stop: Stop) -> Prediction:
        return exported.predict(observation, stop=stop, initial_state=start.numpy())

    return _compare_onnx(policy.stop, predict_torch, predict_onnx, policy.action_normalizer.normalize)


def compare_head(head: RecurrentDepthHead, stop: Stop, exported: OnnxHead) -> list[Check]:
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
    engine, features = Engine(head), features_of(context)

    def predict_torch(stop: Stop) -> Prediction:
        return engine.predict(context, stop=stop, initial_state=start)

    def predict_onnx(stop: Stop) -> Prediction:
        return exported.predict(features, stop=stop, initial_state=start.numpy())

    return _compare_onnx(stop, predict_torch, predict_onnx, lambda actions: actions)


def compare_engines(compiled: Engine, plain: Engine, *, example: Context, stop: Stop) -> list[Check]:
    """Compare two engines in a batch and on one sample, under stop rules of every kind."""
    stops = [Stop.fixed(DEPTH), stop, Stop("action_change"), Stop("deferred_action_change")]
    start = plain.head.initial_state(example.batch_size, torch.Generator().manual_seed(0))

    def predict(engine: Engine, stop: Stop) -> list[Prediction]:
        return [
            engine.predict(example.select(slice(size)), stop=stop, initial_state=start[:size])
            for size in sorted({1, example.batch_size})
        ]

    return [
        compare_predictions(each, predict(compiled, each), predict(plain, each))
        for each in dict.fromkeys(stops)
    ]


def compare_predictions(stop: Stop, found: Sequence[Prediction], expected: Sequence[Prediction]) -> Check:
    """Compare pairs of predictions in normalised units; a difference that is NaN stays NaN."""
    differences = [
        largest_difference(first.actions, second.actions)
        for first, second in zip(found, expected, strict=True)
    ]
    return Check(
        stop=stop.describe(),
        difference=float(torch.tensor(differences).max()),  # unlike Python's, torch's maximum keeps NaN
        depths=tuple(depth for each in found for depth in each.depth.tolist()),
        expected=tuple(depth for each in expected for depth in each.depth.tolist()),
    )


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest difference of two tensors of one shape."""
    return float((first - second).abs().max())


def random_observation(policy: RDVLAPolicy) -> Observation:
    """Return noise for the cameras, and proprioception and an instruction for each sample as in training."""
    trained = trained_instructions(policy.records) or SENTENCES
    config, generator = policy.config, torch.Generator().manual_seed(0)
    square = (config.image_size, config.image_size)
    state = torch.rand(BATCH, config.state_dim, generator=generator) * 2 - 1
    return Observation(
        images={
            camera: torch.randint(
                0,
                256,
                (BATCH, *config.camera_sizes.get(camera, square), 3),
                dtype=torch.uint8,
                generator=generator,
            )
            for camera in config.cameras
        },
        state=policy.state_normalizer.unnormalize(state),
        instruction=[trained[sample % len(trained)] for sample in range(BATCH)],
    )


def _compare_onnx(
    stop: Stop, predict_torch: Predict, predict_onnx: Predict, normalize: Normalize
) -> list[Check]:
    checks = []
    for each in (Stop.fixed(DEPTH), stop):
        found = predict_onnx(each).with_actions(lambda actions: normalize(torch.from_numpy(actions)))
        expected = predict_torch(each).with_actions(normalize)
        checks.append(compare_predictions(each, [found], [expected]))
    return checks
