"""Which samples an update sees, how their images are shifted, and which frames are named as not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rdvla.errors import ConfigError
from rdvla.heads import ConstantDepth, LogNormalPoisson
from rdvla.processing.augmentation import Augmentation
from rdvla.training.batches import (
    BatchSource,
    Sampler,
    augment_images,
    depth_distribution,
    shift_images,
    step_generator,
)
from rdvla.training.config import DataConfig, DepthConfig
from rdvla.training.non_finite import non_finite_frames
from rdvla.training.trainer import Trainer
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config


def test_draws_depend_on_seed_and_step_alone() -> None:
    sampler = Sampler(range(100), batch_size=16, seed=3, depth=LogNormalPoisson(mean=8))
    first = [sampler.draw(step) for step in (5, 6, 7)]
    again = [sampler.draw(step) for step in (7, 6, 5)][::-1]
    for a, b in zip(first, again, strict=True):
        assert a.frames.equal(b.frames)
        assert a.depth == b.depth
        assert torch.randn(4, generator=a.generator).equal(torch.randn(4, generator=b.generator))
    assert not first[0].frames.equal(first[1].frames)
    other = Sampler(range(100), batch_size=16, seed=4, depth=ConstantDepth(1))
    assert not other.draw(5).frames.equal(first[0].frames)
    assert step_generator(1, 2).initial_seed() != step_generator(2, 1).initial_seed()


def test_sampler_draws_only_given_rows_and_all_of_them() -> None:
    frames = [3, 5, 8, 13]
    sampler = Sampler(frames, batch_size=50, seed=0, depth=ConstantDepth(1))
    assert set(sampler.draw(0).frames.tolist()) == set(frames)
    with pytest.raises(ConfigError, match="no training frames"):
        Sampler([], batch_size=1, seed=0, depth=ConstantDepth(1))


def test_depth_distribution_takes_its_mean_from_the_head_unless_given() -> None:
    assert depth_distribution(DepthConfig(), head_mean=12) == LogNormalPoisson(mean=12, minimum=1, maximum=64)
    assert depth_distribution(DepthConfig(distribution="constant", mean=1), head_mean=12) == ConstantDepth(1)


def test_shifted_images_are_cut_from_the_bordered_image() -> None:
    images = torch.randint(0, 256, (4, 2, 8, 8, 3), dtype=torch.uint8)
    features = {"images": images, "text_bytes": torch.arange(4)}
    shifted = shift_images(features, at_most=2, generator=torch.Generator().manual_seed(0))
    assert shifted["text_bytes"] is features["text_bytes"]
    bordered = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    offsets = set()
    for sample, camera in np.ndindex(4, 2):
        crops = {(y, x): bordered[sample, camera, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
        matches = [
            k for k, crop in crops.items() if (crop == shifted["images"][sample, camera].numpy()).all()
        ]
        assert matches
        offsets.add(matches[0])
    assert len(offsets) > 1


PAPER = Augmentation(crop_area=0.9, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)


def test_augmented_images_and_keypoints_depend_on_the_generator_alone() -> None:
    images = torch.randint(0, 256, (4, 2, 8, 8, 3), dtype=torch.uint8)
    features, keypoints = {"images": images, "text_bytes": torch.arange(4)}, torch.zeros(4, 2, 3, 2)
    first, again, other = (
        augment_images(features, keypoints, augmentation=PAPER, generator=step_generator(0, step))
        for step in (5, 5, 6)
    )
    assert first[0]["text_bytes"] is features["text_bytes"]
    assert first[0]["images"].equal(again[0]["images"]) and first[1].equal(again[1])
    assert not first[0]["images"].equal(other[0]["images"]) and not first[1].equal(other[1])
    assert len({tuple(place) for place in first[1][:, :, 0].flatten(0, 1).tolist()}) == 4 * 2
    assert features["images"] is images and keypoints.eq(0).all()


def test_only_training_batches_are_augmented(dataset: Path, tmp_path: Path) -> None:
    data = DataConfig(validation_fraction=0.34, augmentation=PAPER)
    trainer = Trainer(train_config(dataset, tmp_path / "run", data=data))
    frames = trainer.validation_frames[:4]
    plain = trainer.source.batch(frames).features["images"]
    assert plain.equal(torch.stack([trainer.dataset.images(frames.numpy())["front"]], dim=1))
    changed = [
        trainer.source.batch(frames, generator=step_generator(0, step)).features["images"] for step in (5, 5)
    ]
    assert changed[0].equal(changed[1]) and not changed[0].equal(plain)


def test_augmentation_that_is_off_draws_nothing(dataset: Path, tmp_path: Path) -> None:
    data = DataConfig(validation_fraction=0.34, image_shift=2, augmentation=Augmentation())
    trainer = Trainer(train_config(dataset, tmp_path / "run", data=data))
    generator, other = step_generator(0, 1), step_generator(0, 1)
    frames = trainer.validation_frames[:4]
    images = trainer.source.batch(frames).features
    shifted = trainer.source.batch(frames, generator=generator).features["images"]
    assert shifted.equal(shift_images(images, at_most=2, generator=other)["images"])
    assert torch.rand(3, generator=generator).equal(torch.rand(3, generator=other))


def test_frozen_features_cannot_be_augmented(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run")
    with pytest.raises(ConfigError, match="freeze_backbone=true their features are computed once"):
        replace(config, data=DataConfig(augmentation=PAPER), freeze_backbone=True)
    frozen = Trainer(replace(config, data=DataConfig(), freeze_backbone=True))
    with pytest.raises(ConfigError, match="features of a frozen image encoder"):
        BatchSource(frozen.dataset, frozen.source._features, policy=frozen.policy, augmentation=PAPER)


def test_rows_that_are_not_finite_are_named() -> None:
    batch = tiny_batch(tiny_policy())
    batch.actions[1, 0, 0] = float("nan")
    sentences = non_finite_frames(batch, torch.tensor([7, 9, 11]))
    assert sentences == ["the action is not finite in frames [9]"]
