"""One of several processes that train together, started by torch's launcher in test_ranks.py.

Each writes what it saw to `<folder>/rank-<n>.json`, and rank 0 its gradients next to it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from rdvla.errors import RDVLAError
from rdvla.hashing import hash_tensors
from rdvla.policy import PolicyConfig
from rdvla.training import TrainConfig, Trainer
from rdvla.training.compute import ComputeConfig
from rdvla.training.config import LossConfig, OptimizerConfig, WarmStartConfig
from tests.support.tiny_training import policy_config, train_config
from tests.support.tiny_vlms import vlm_config

BATCH = 10  # samples; 3 processes have unequal shares of it
DEPTHS = (
    1,
    6,
)  # fewer and more iterations than are differentiated: at the second, gamma_init has no gradient
QUIET = Console(quiet=True)


def case(name: str, dataset: Path, folder: Path, *, model: str) -> TrainConfig:
    """A configuration whose updates leave the weights as they are, so that gradients compare."""
    changes: dict[str, Any] = {
        "perception and warm starts": {
            "loss": LossConfig(proprio_noise=0.1, perception_weight=0.5),
            "warm_start": WarmStartConfig(share=0.5, kind="midpoint", executed=3, depth=2),
        },
        "accumulation": {"compute": ComputeConfig(accumulation_steps=2)},
        "LoRA": {"policy": _with_lora(model)},
    }[name]
    still = OptimizerConfig(learning_rate=1e-12, warmup_steps=1)
    return train_config(dataset, folder / name, batch_size=BATCH, optimizer=still, **changes)


CASES = ("perception and warm starts", "accumulation", "LoRA")


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    """Gradients by `<depth>/<parameter>` of one update at each depth."""
    found = {}
    for step, depth in enumerate(DEPTHS):
        trainer.update(replace(trainer.sampler.draw(step), depth=depth))
        grads = {
            name: p.grad.clone(memory_format=torch.contiguous_format)
            for name, p in trainer.state.parameters.items()
            if p.grad is not None
        }
        found |= {f"{depth}/{name}": value for name, value in grads.items()}
    return found


def _with_lora(model: str) -> PolicyConfig:
    policy = policy_config()
    head = replace(policy.head, prelude=(1,), core=(2,))
    return replace(policy, backbone=vlm_config(model), head=head)


def _compare(dataset: Path, folder: Path, model: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for name in CASES:
        trainer = Trainer(case(name, dataset, folder, model=model), console=QUIET)
        draws = [trainer.sampler.draw(step) for step in range(20)]
        steps = trainer.config.compute.accumulation_steps
        rows = [
            share.of(torch.arange(BATCH)).tolist()
            for share in trainer.ranks.shares(BATCH, steps=steps)
            if share
        ]
        found = gradients(trainer)
        seen[name] = {
            "depths": [d.depth for d in draws],
            "rows": rows,
            "gradients": hash_tensors(found.items()),
        }
        if trainer.ranks.is_first:
            save_file(found, folder / f"{name}.safetensors")
    return seen


def _ends(dataset: Path, folder: Path, _model: str) -> dict[str, Any]:
    """End runs in every way that one rank alone meets."""
    return {
        "SIGTERM": _outcome(train_config(dataset, folder / "SIGTERM"), _ask_to_stop),
        "not finite": _outcome(train_config(dataset, folder / "not finite"), _poison),
        "disk": _outcome(train_config(dataset, folder / "disk"), _fill_disk),
        "options": _begin(train_config(dataset, folder / "options", seed=_number(), threads=1 + _number())),
    }


def _number() -> int:
    return int(os.environ["RANK"])


def _begin(config: TrainConfig) -> str:
    try:
        Trainer(config, console=QUIET)
    except RDVLAError as error:
        return f"{type(error).__name__}: {error}"
    return "it begins"


def _outcome(config: TrainConfig, disturb: Callable[[Trainer], None]) -> str:
    trainer = Trainer(config, console=QUIET)
    disturb(trainer)
    try:
        result = trainer.run()
    except RDVLAError as error:
        return f"{type(error).__name__} after step {trainer.state.step}: {error}"
    return f"finished {result.finished} at step {result.step}"


def _ask_to_stop(trainer: Trainer) -> None:
    """Let the last rank get a SIGTERM while it draws its fifth batch."""
    draw = trainer.sampler.draw

    def interrupt(step: int) -> Any:
        if step == 4 and trainer.ranks.number == trainer.ranks.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(step)

    trainer.sampler.draw = interrupt  # type: ignore[method-assign]


def _poison(trainer: Trainer) -> None:
    """Let one sample of the last rank's share of the eighth update be NaN."""
    actions, poisoned = trainer.dataset.actions, int(trainer.sampler.draw(7).frames[-1])

    def poison(frames: Any) -> Tensor:
        values = actions(frames)
        if trainer.state.step == 7:
            values[torch.as_tensor(frames) == poisoned] = float("nan")
        return values

    trainer.dataset.actions = poison  # type: ignore[method-assign]


def _fill_disk(trainer: Trainer) -> None:
    """Let the second checkpoint of rank 0 find no room."""
    save = trainer.store.save

    def full(checkpoint: Any) -> Path:
        if checkpoint.step > 3:
            raise OSError(errno.ENOSPC, "No space left on device", "checkpoint")
        return save(checkpoint)

    trainer.store.save = full  # type: ignore[method-assign]


if __name__ == "__main__":
    what, dataset, folder, model = sys.argv[1:]
    seen = {"compare": _compare, "ends": _ends}[what](Path(dataset), Path(folder), model)
    (Path(folder) / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(seen))
