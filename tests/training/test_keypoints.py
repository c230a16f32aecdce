"""Keypoints reach the perception loss in the order of the policy's cameras."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rdvla.backbone import CompactBackbone, CompactConfig, Features
from rdvla.backbone.compact.slots import bilinear_weights
from rdvla.data import DatasetWriter, Episode
from rdvla.data.features import KEYPOINTS
from rdvla.errors import ConfigError
from rdvla.policy.losses import LossWeights
from rdvla.training.batches import BatchSource
from rdvla.training.config import LossConfig
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config

PERCEPTION = LossWeights(actions=0.0, perception=1.0)
SMALL = CompactConfig(num_cameras=2, image_size=32, slots=3)


def attention_at(points: torch.Tensor, slots: int = 3, grid: int = 4) -> Features:
    """Features of a backbone whose first slots attend exactly to the points."""
    at_points = bilinear_weights(points, grid)
    free = torch.full((*at_points.shape[:2], slots - at_points.shape[2], grid * grid), 1 / grid**2)
    return Features(vision={}, latents={}, attention=torch.cat([at_points, free], dim=2))


def test_bilinear_weights_sum_to_one_and_average_to_the_point() -> None:
    points = torch.rand(50, 2) * 1.5 - 0.75
    weights = bilinear_weights(points, 8)
    centres = (torch.arange(8) + 0.5) / 8 * 2 - 1
    rows, columns = torch.meshgrid(centres, centres, indexing="ij")
    torch.testing.assert_close(weights.sum(-1), torch.ones(50))
    torch.testing.assert_close(weights @ columns.flatten(), points[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(weights @ rows.flatten(), points[:, 1], atol=1e-5, rtol=0)
    assert (weights > 1e-6).sum(-1).max() <= 4


def test_attention_at_the_points_has_the_lowest_loss() -> None:
    backbone = CompactBackbone(SMALL)
    points = torch.rand(4, 2, 2, 2) * 1.4 - 0.7
    there = backbone.keypoint_loss(attention_at(points), points)
    for shift in (0.3, -0.5):
        elsewhere = backbone.keypoint_loss(attention_at((points + shift).clamp(-1, 1)), points)
        assert elsewhere > there + 0.1


def test_points_outside_the_image_do_not_count() -> None:
    backbone = CompactBackbone(SMALL)
    points = torch.rand(4, 2, 2, 2) * 1.4 - 0.7
    features = attention_at(points)
    outside = points.clone()
    outside[:, 1] = 2.0
    only_first = backbone.keypoint_loss(features, outside)
    assert only_first.isfinite() and only_first != backbone.keypoint_loss(features, points)
    assert backbone.keypoint_loss(features, torch.full_like(points, 2.0)) == 0


def test_keypoints_that_do_not_fit_are_refused() -> None:
    backbone = CompactBackbone(SMALL)
    features = attention_at(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ConfigError, match="3 cameras"):
        backbone.keypoint_loss(features, torch.zeros(1, 3, 2, 2))
    with pytest.raises(ConfigError, match="4 points"):
        backbone.keypoint_loss(features, torch.zeros(1, 2, 4, 2))
    with pytest.raises(ConfigError, match="frozen"):
        backbone.keypoint_loss(replace(features, attention=None), torch.zeros(1, 2, 2, 2))


def test_the_weight_adds_the_keypoint_loss() -> None:
    policy = tiny_policy()
    batch = tiny_batch(policy)
    losses = [policy(batch, losses=replace(PERCEPTION, keypoints=weight)).total for weight in (0.0, 0.5)]
    features = policy.backbone.features(batch.features)
    assert batch.keypoints is not None
    expected = losses[0] + 0.5 * policy.backbone.keypoint_loss(features, batch.keypoints)
    torch.testing.assert_close(losses[1], expected)
    with pytest.raises(ConfigError, match="environment_keypoints"):
        policy(replace(batch, keypoints=None), losses=replace(PERCEPTION, keypoints=0.5))


def test_a_weight_without_effect_is_refused(tmp_path: Path) -> None:
    keypoints = LossConfig(keypoint_weight=0.1)
    with pytest.raises(ConfigError, match=r"loss\.keypoint_weight.*objective=perception"):
        train_config(tmp_path, tmp_path, loss=keypoints)
    with pytest.raises(ConfigError, match=r"loss\.keypoint_weight"):
        train_config(tmp_path, tmp_path, loss=keypoints, freeze_backbone=True)
    train_config(tmp_path, tmp_path, loss=keypoints, objective="perception")
    train_config(tmp_path, tmp_path, loss=replace(keypoints, perception_weight=0.1))


def test_cameras_are_taken_in_the_policys_order(tmp_path: Path) -> None:
    from rdvla.data import EpisodeDataset

    size, length, cameras = 32, 4, ("left", "right")
    vectors = {"observation.state": 4, "action": 4, KEYPOINTS: 4}
    writer = DatasetWriter.create(
        tmp_path / "two",
        fps=10,
        features={n: {"dtype": "float32", "shape": (k,), "names": None} for n, k in vectors.items()},
        cameras=cameras,
        image_size=size,
    )
    keypoints = np.tile(np.array([[0.1, 0.2, 0.3, 0.4]], dtype=np.float32), (length, 1))
    features = {n: np.zeros((length, k), dtype=np.float32) for n, k in vectors.items()}
    features[KEYPOINTS] = keypoints
    images = {camera: np.zeros((length, size, size, 3), dtype=np.uint8) for camera in cameras}
    writer.add_episode(Episode(features=features, images=images, task="look"), number=0)
    writer.finalize()
    dataset = EpisodeDataset(tmp_path / "two", chunk_size=4, cameras=("right", "left"))

    class NoFeatures:
        def get(self, frames: object) -> dict[str, torch.Tensor]:
            return {}

    source = BatchSource(dataset, NoFeatures(), policy=tiny_policy())  # type: ignore[arg-type]
    found = source.batch(torch.tensor([0, 2])).keypoints
    assert found is not None
    torch.testing.assert_close(found[0], torch.tensor([[[0.3, 0.4]], [[0.1, 0.2]]]))
