"""A dataset and a configuration small enough to train in a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rdvla.backbone import CompactConfig
from rdvla.data import DatasetWriter, Episode
from rdvla.heads import RecurrentConfig
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.policy.batch import Batch
from rdvla.training.config import (
    CheckpointConfig,
    DataConfig,
    DepthConfig,
    OptimizerConfig,
    TrainConfig,
    ValidationConfig,
)
from rdvla.types import Observation

SIZE = 32
TASKS = ("push the puck", "open the drawer")


def write_dataset(root: Path, *, episodes: int = 6, length: int = 24, stride: int = 3) -> Path:
    """A bright square moves over the image; action and environment state say where it is."""
    writer = DatasetWriter.create(
        root,
        fps=80,
        features={
            "observation.state": {"dtype": "float32", "shape": (4,), "names": None},
            "privileged.environment_state": {"dtype": "float32", "shape": (3,), "names": None},
            "action": {"dtype": "float32", "shape": (4,), "names": None},
        },
        cameras=("front",),
        image_size=SIZE,
    )
    for number in range(episodes):
        writer.add_episode(_episode(number, length=length, stride=stride), number=number)
    return writer.finalize()


def _episode(number: int, *, length: int, stride: int) -> Episode:
    rng = np.random.default_rng(number)
    position = rng.uniform(-1, 1, 2) * np.ones((length, 1)) + np.linspace(0, 0.4, length)[:, None]
    state = np.concatenate([rng.uniform(-1, 1, (length, 3)), np.zeros((length, 1))], axis=1)
    action = np.concatenate([position, state[:, :1], np.sign(position[:, :1])], axis=1)
    environment = np.concatenate([position, state[:, :1]], axis=1)
    image_index = np.arange(length) // stride
    images = np.zeros((image_index[-1] + 1, SIZE, SIZE, 3), dtype=np.uint8)
    for i, (x, y) in enumerate(position[::stride]):
        column, row = (int((v + 1.5) / 3 * (SIZE - 8)) for v in (x, y))
        images[i, row : row + 8, column : column + 8] = 255
    return Episode(
        features={
            "observation.state": state.astype(np.float32),
            "privileged.environment_state": environment.astype(np.float32),
            "action": action.astype(np.float32),
        },
        images={"front": images},
        image_index=image_index,
        task=TASKS[number % len(TASKS)],
    )


def policy_config(**head: Any) -> PolicyConfig:
    values = {"hidden_dim": 16, "num_heads": 2, "chunk_size": 4, "action_dim": 4, "context_dim": 16}
    values |= {"prelude": ("middle",), "core": ("late",), "coda": (), "mean_depth": 4, "backprop_depth": 2}
    return PolicyConfig(
        execution="fixed:4",
        backbone=CompactConfig(
            num_cameras=1,
            image_size=SIZE,
            width=16,
            slots=3,
            slot_dim=8,
            latents=2,
            heads=2,
            conv_stem=8,
            conv_width=8,
            conv_blocks=1,
            conv_bfloat16=False,
            text_width=8,
            max_instruction_bytes=32,
            environment_state_dim=3,
        ),
        head=RecurrentConfig(**(values | head)),
        cameras=("front",),
        image_size=SIZE,
        state_dim=4,
    )


def train_config(dataset: Path, output_dir: Path, **changes: Any) -> TrainConfig:
    config = TrainConfig(
        dataset=str(dataset),
        output_dir=str(output_dir),
        policy=policy_config(),
        steps=12,
        batch_size=8,
        log_every=2,
        device="cpu",
        data=DataConfig(validation_fraction=0.34, image_shift=2),
        optimizer=OptimizerConfig(warmup_steps=3),
        depth=DepthConfig(mean=4, maximum=8),
        validation=ValidationConfig(every=6, depths=(1, 2, 4), max_samples=16, batch_size=8),
        checkpoints=CheckpointConfig(every=3, keep=2),
    )
    return replace(config, **changes)


def tiny_policy(**head: Any) -> RDVLAPolicy:
    """An untrained policy of `policy_config`, the same each time."""
    torch.manual_seed(0)
    bounds = {"q01": [-1.0] * 4, "q99": [1.0] * 4}
    return RDVLAPolicy(policy_config(**head), {"action": bounds, "observation.state": bounds})


def tiny_batch(policy: RDVLAPolicy, size: int = 3) -> Batch:
    """Random samples with every target that a loss may need."""
    images = torch.randint(0, 256, (size, SIZE, SIZE, 3), dtype=torch.uint8)
    observation = Observation(
        images={"front": images}, state=torch.randn(size, 4), instruction=["push"] * size
    )
    return Batch(
        features=policy.frozen_inputs(observation),
        state=observation.state,
        actions=torch.randn(size, 4, 4),
        action_is_pad=torch.zeros(size, 4, dtype=torch.bool),
        environment_state=torch.randn(size, 3),
        keypoints=torch.rand(size, 1, 2, 2) * 2 - 1,
    )
