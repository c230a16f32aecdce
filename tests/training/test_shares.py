"""A batch that is computed in shares gives the gradients of the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch, Share
from rdvla.policy.losses import LossWeights
from rdvla.processing.augmentation import Augmentation
from rdvla.training import Trainer
from rdvla.training.batches import augment_images, share_out, shift_images, step_generator
from rdvla.training.compute import ComputeConfig
from rdvla.training.config import DataConfig, LossConfig, WarmStartConfig
from tests.support.tiny_training import tiny_batch, tiny_policy, train_config

QUIET = Console(quiet=True)
SIZE = 10  # samples of a batch; 3 shares of it are uneven


def assert_equal_sums(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """The same float32 terms, added in another order: at most ~1000 rounding errors of the largest value."""
    scale = max(float(value.abs().max()) for value in expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1000 * torch.finfo(torch.float32).eps * scale)


@pytest.mark.parametrize(("size", "parts"), [(10, 3), (8, 2), (7, 7), (2, 3), (1, 1)])
def test_shares_cover_every_row_once(size: int, parts: int) -> None:
    rows = torch.arange(size)
    shares = share_out(size, parts=parts)
    assert torch.cat([share.of(rows) for share in shares]).equal(rows)
    assert max(share.size for share in shares) - min(share.size for share in shares) <= 1
    assert sum(share.samples for share in shares) == pytest.approx(1)


CHANGES: dict[str, dict[str, Any]] = {
    "noise, shifted images and warm starts": {
        "loss": LossConfig(proprio_noise=0.1, perception_weight=0.5),
        "warm_start": WarmStartConfig(share=0.5, kind="midpoint", executed=3, depth=2),
    },
    "augmented images": {
        "data": DataConfig(validation_fraction=0.34, augmentation=Augmentation(0.9, 0.2, 0.2, 0.2, 0.05))
    },
    "several candidates": {"loss": LossConfig(candidates=3)},
    "perception alone": {"objective": "perception"},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_accumulation_gives_the_update_of_the_whole_batch(
    dataset: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Chunks reach past the end of episodes, so the shares hold unequal numbers of steps."""
    updates, gradients = [], []
    for steps in (1, 3):
        compute = ComputeConfig(accumulation_steps=steps)
        config = train_config(dataset, tmp_path / str(steps), batch_size=SIZE, compute=compute, **changes)
        trainer = Trainer(config, console=QUIET)
        updates.append(trainer.update(replace(trainer.sampler.draw(2), depth=2)))
        gradients.append([p.grad for p in trainer.state.parameters.values() if p.grad is not None])
    whole, shared = updates
    assert shared.scalars.keys() == whole.scalars.keys()
    for name, value in whole.scalars.items():
        assert shared.scalars[name] == pytest.approx(value, rel=1e-5)
    assert_equal_sums(gradients[1], gradients[0])


def test_losses_of_shares_add_up_however_padding_and_keypoints_lie() -> None:
    """Padding and points outside the image all lie in one share; another has no point inside at all."""
    policy = tiny_policy()
    batch = tiny_batch(policy, size=SIZE)
    batch.action_is_pad[:4, 1:] = True
    assert batch.keypoints is not None
    batch.keypoints[:5] = 2.0
    losses = LossWeights(perception=0.7, keypoints=0.3)
    whole = gradients_of(policy, batch, losses)
    shares = share_out(SIZE, parts=3)
    found = [gradients_of(policy, rows(batch, share), losses.of(counted(batch, share))) for share in shares]
    assert_equal_sums([torch.stack(parts).sum(0) for parts in zip(*found, strict=True)], whole)


def counted(batch: Batch, share: Share) -> Share:
    """How much a share counts, told from the batch itself."""
    assert batch.keypoints is not None
    inside = (batch.keypoints.abs() < 1).all(-1)
    kept = ~batch.action_is_pad
    return replace(
        share,
        steps=float(share.of(kept).sum() / kept.sum()),
        points=float(share.of(inside).sum() / inside.sum()),
    )


def rows(batch: Batch, share: Share) -> Batch:
    assert batch.environment_state is not None and batch.keypoints is not None
    return Batch(
        features={name: share.of(value) for name, value in batch.features.items()},
        state=share.of(batch.state),
        actions=share.of(batch.actions),
        action_is_pad=share.of(batch.action_is_pad),
        environment_state=share.of(batch.environment_state),
        keypoints=share.of(batch.keypoints),
        share=share,
    )


def gradients_of(policy: RDVLAPolicy, batch: Batch, losses: LossWeights) -> list[Tensor]:
    loss = policy(batch, losses=losses, generator=torch.Generator().manual_seed(3), depth=2)
    return list(
        torch.autograd.grad(loss.total, list(policy.parameters()), allow_unused=True, materialize_grads=True)
    )


def test_images_of_a_share_change_as_they_do_in_the_whole_batch() -> None:
    images = torch.randint(0, 256, (SIZE, 2, 16, 16, 3), dtype=torch.uint8)
    points = torch.rand(SIZE, 2, 3, 2) - 0.5
    paper = Augmentation(0.9, 0.2, 0.2, 0.2, 0.05)
    shifted = shift_images({"images": images}, at_most=3, generator=step_generator(0, 1))["images"]
    changed, moved = augment_images(
        {"images": images}, points, augmentation=paper, generator=step_generator(0, 1)
    )
    for share in share_out(SIZE, parts=3):
        own = {"images": share.of(images)}
        found = shift_images(own, at_most=3, generator=step_generator(0, 1), share=share)["images"]
        assert found.equal(share.of(shifted))
        some, where = augment_images(
            own, points, augmentation=paper, generator=step_generator(0, 1), share=share
        )
        # Crops are interpolated, and a batch of another size may round them otherwise.
        difference = some["images"].int() - share.of(changed["images"]).int()
        assert difference.abs().max() <= 1
        assert where is not None and moved is not None and where.equal(moved)


def test_a_batch_of_too_few_samples_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 8, .* 3 processes x compute.accumulation_steps=4"):
        train_config(dataset, tmp_path / "run", compute=ComputeConfig(processes=3, accumulation_steps=4))
