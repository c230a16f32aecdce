"""Runs on several datasets, on published data, and on images that were decoded once for all."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from rdvla.config import load_config
from rdvla.data import EpisodeDataset
from rdvla.data.mixture import MixtureImages
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training import TrainConfig, Trainer, train
from rdvla.training.batches import Draw
from rdvla.training.config import DataConfig, DepthConfig, LossConfig
from rdvla.types import Observation
from tests.support.documents import blocks
from tests.support.published_datasets import SIZE, write_published
from tests.support.tiny_training import policy_config, train_config, write_dataset

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def pair(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    other = write_dataset(tmp_path_factory.mktemp("second") / "more", episodes=4, length=15)
    return f"{dataset},{other}"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by a number of frames with every call that decodes video."""
    calls: list[int] = []
    read = MixtureImages.read

    def counting(self: MixtureImages, frames: np.ndarray) -> Any:
        calls.append(len(frames))
        return read(self, frames)

    monkeypatch.setattr(MixtureImages, "read", counting)
    return calls


def test_several_datasets_train_one_policy(pair: str, tmp_path: Path) -> None:
    config = replace(train_config(Path(), tmp_path / "run"), dataset=pair)
    result = train(config, console=QUIET)
    policy = RDVLAPolicy.from_pretrained(result.policy_dir or "")
    values = np.concatenate([EpisodeDataset(root, chunk_size=4).column("action") for root in pair.split(",")])
    np.testing.assert_allclose(
        policy.statistics["action"]["q01"], np.quantile(values, 0.01, axis=0), rtol=1e-5
    )


def test_a_stopped_run_on_several_datasets_goes_on_bit_by_bit(pair: str, tmp_path: Path) -> None:
    whole = replace(train_config(Path(), tmp_path / "whole"), dataset=pair)
    train(whole, console=QUIET)
    stopped = replace(whole, output_dir=str(tmp_path / "stopped"))

    class Stopping(Trainer):
        def update(self, draw: Draw) -> Any:
            if draw.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().update(draw)

    assert not Stopping(stopped, console=QUIET).run().finished
    train(replace(stopped, resume=True), console=QUIET)
    one, other = (load_file(Path(c.output_dir) / "policy/model.safetensors") for c in (whole, stopped))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_context_is_computed_from_images_that_were_decoded_before(
    pair: str, tmp_path: Path, decoded: list[int]
) -> None:
    shared = DataConfig(validation_fraction=0.34, cache_dir=str(tmp_path / "cache"))
    perception = replace(
        train_config(Path(), tmp_path / "perception", objective="perception"), dataset=pair, data=shared
    )
    first = train(perception, console=QUIET)
    samples = len(Trainer(replace(perception, resume=True), console=QUIET).dataset)
    assert sum(decoded) == samples + 2  # every image once, and one more to see what the backbone yields
    decoded.clear()
    head = replace(
        perception,
        output_dir=str(tmp_path / "head"),
        objective="actions",
        init_from=str(first.policy_dir),
        freeze_backbone=True,
        depth=DepthConfig(distribution="constant", mean=1),
    )
    trainer = Trainer(head, console=QUIET)
    assert sum(decoded) == 1
    data, policy = trainer.dataset, trainer.policy
    frames = data.sample_index[[0, 5, -1]]
    expected = policy.frozen_inputs(
        Observation(
            images=data.images(frames), state=data.state(frames), instruction=data.instructions(frames)
        )
    )
    found = trainer.source.batch(torch.from_numpy(frames)).features
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-3, rtol=2e-3)  # kept in float16


def test_images_of_a_batch_are_those_of_the_dataset(pair: str, tmp_path: Path) -> None:
    trainer = Trainer(replace(train_config(Path(), tmp_path / "run"), dataset=pair), console=QUIET)
    frames = trainer.dataset.sample_index[[3, 0, -1]]
    found = trainer.source.batch(torch.from_numpy(frames)).features["images"]
    assert torch.equal(found[:, 0], trainer.dataset.images(frames)["front"])


# --- published data ---


def published_config(root: Path, output: Path, **changes: Any) -> TrainConfig:
    policy = policy_config(action_dim=7)
    policy = replace(policy, cameras=("wrist",), state_dim=8, unscaled_actions=(6,), image_size=SIZE)
    data = DataConfig(
        validation_fraction=0.34, cameras={"image": "agentview", "image2": "wrist"}, sample_every=2
    )
    return replace(train_config(root, output, policy=policy, data=data), **changes)


@pytest.mark.parametrize("kind", ["video", "image"])
def test_published_data_trains_a_policy(tmp_path: Path, kind: str) -> None:
    root = write_published(tmp_path / "libero", kind=kind)
    result = train(published_config(root, tmp_path / "run"), console=QUIET)
    policy = RDVLAPolicy.from_pretrained(result.policy_dir or "")
    assert policy.config.cameras == ("wrist",)
    assert len(policy.statistics["action"]["q99"]) == 7


def test_what_published_data_lacks_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    config = published_config(write_published(tmp_path / "libero", kind="image"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"privileged\.environment_state.*objective=actions"):
        Trainer(replace(config, objective="perception"), console=QUIET)
    with pytest.raises(ConfigError, match=r"environment_state.*libero.*perception_weight=0"):
        Trainer(replace(config, loss=LossConfig(perception_weight=0.1)), console=QUIET)
    small = replace(config.policy.backbone, image_size=16)
    halved = replace(config, policy=replace(config.policy, image_size=16, backbone=small))
    assert not (tmp_path / "run").exists()
    scaled = Trainer(halved, console=QUIET)
    assert scaled.config.policy.camera_sizes == {"wrist": (SIZE, SIZE)}
    assert scaled.source.batch(torch.tensor([0])).features["images"].shape == (1, 1, 16, 16, 3)


def test_keypoints_that_a_dataset_lacks_are_named(dataset: Path, tmp_path: Path) -> None:
    config = train_config(
        dataset, tmp_path / "run", objective="perception", loss=LossConfig(keypoint_weight=0.1)
    )
    with pytest.raises(ConfigError, match=r"environment_keypoints.*loss\.keypoint_weight=0"):
        Trainer(config, console=QUIET)


def test_options_of_the_command_line() -> None:
    words = ["--dataset=a,b", "--output_dir=runs/x", "--data.cameras={image: agentview, image2: wrist}"]
    config = load_config(TrainConfig, words)
    assert config.dataset == "a,b"
    assert config.data.cameras == {"image": "agentview", "image2": "wrist"}


def test_the_documented_configuration_fits_published_data(tmp_path: Path) -> None:
    (shown,) = (block for block in blocks("docs/libero.md") if block.title == "libero.yaml")
    file = tmp_path / "libero.yaml"
    file.write_text(shown.text)
    root = write_published(tmp_path / "libero", kind="video")
    config = load_config(
        TrainConfig, ["--config", str(file), f"--dataset={root}", f"--output_dir={tmp_path / 'run'}",
                      f"--data.cache_dir={tmp_path / 'cache'}", "--device=cpu"],
    )  # fmt: skip
    trainer = Trainer(config, console=QUIET)
    batch = trainer.source.batch(torch.from_numpy(trainer.dataset.sample_index[:2]))
    assert batch.features["images"].shape == (2, 2, SIZE, SIZE, 3)  # published ones of 256 pixels get 128
