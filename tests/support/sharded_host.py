"""One of several processes that train one policy, its weights shared out or not; see test_sharding.py.

Usage: `python -m tests.support.sharded_host DATASET FOLDER STRATEGY STEPS [option=value ...]`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from rdvla.training import TrainConfig, Trainer, acceleration
from rdvla.training.compute import ComputeConfig
from rdvla.training.config import LossConfig
from rdvla.training.sharding import is_sharded
from tests.support.tiny_training import policy_config, train_config
from tests.support.tiny_vlms import vlm_config

BATCH = 9  # samples: shares of two processes differ in size
# One held-out sample in the last batch of a validation: one of two processes has none.
VALIDATION = {"every": 3, "depths": (1, 4), "max_samples": 9, "batch_size": 8}


def sharded_config(dataset: Path, folder: Path, *, steps: int = 6, **changes: Any) -> TrainConfig:
    """A run whose batches and validations do not come out even."""
    loss = LossConfig(proprio_noise=0.1, perception_weight=0.5)
    config = train_config(dataset, folder, steps=steps, log_every=1, batch_size=BATCH, loss=loss, **changes)
    return replace(config, validation=replace(config.validation, **VALIDATION))


def with_lora(config: TrainConfig, model: str) -> TrainConfig:
    """Train low-rank pairs in float32 next to the frozen bfloat16 weights of a published model."""
    policy = policy_config()
    head = replace(policy.head, prelude=(1,), core=(2,))
    policy = replace(policy, backbone=vlm_config(model, dtype="bfloat16"), head=head)
    return replace(config, policy=policy, loss=replace(config.loss, perception_weight=0.0))


def main(dataset: str, folder: str, strategy: str, steps: str, *options: str) -> None:
    compute = ComputeConfig(
        strategy=strategy,  # type: ignore[arg-type]  # of the test
        accumulation_steps=2 if "accumulation" in options else 1,
        gradient_checkpointing="checkpointing" in options,
        compile="compile" in options,
    )
    config = sharded_config(
        Path(dataset),
        Path(folder),
        steps=int(steps),
        resume="resume" in options,
        compute=compute,
        mixed_precision="bf16" if "bf16" in options else "no",
    )
    for model in (option.removeprefix("model=") for option in options if option.startswith("model=")):
        config = with_lora(config, model)
    # Blocks are traced and differentiated as for any compiler; waiting for one would take a minute.
    traced = partial(acceleration.compile_blocks, backend="aot_eager")
    with mock.patch.object(acceleration, "compile_blocks", traced):
        trainer = Trainer(config, console=Console(quiet=True))
    trainer.run()
    kept = sum(value.numel() for value in _local(trainer))
    facts = {
        "sharded": is_sharded(trainer.policy),
        "kept": kept,
        "all": sum(value.numel() for value in trainer.policy.parameters()),
    }
    file = Path(folder).parent / f"{Path(folder).name}-rank-{trainer.ranks.number}.json"
    file.write_text(json.dumps(facts))


def _local(trainer: Trainer) -> list[Any]:
    values = list(trainer.policy.parameters())
    return [value.to_local() if hasattr(value, "to_local") else value for value in values]


if __name__ == "__main__":
    main(*sys.argv[1:])
