"""What is killed: three commands on toy sizes, and what each of them needs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

OUT = "out"  # what a command writes, below the folder of a run
SETUP = "setup"  # below the output of the benchmark: what the commands read
STEPS = 60

TRAIN = {
    "dataset": f"../../{SETUP}/demonstrations/{OUT}",
    "output_dir": OUT,
    "steps": STEPS,
    "batch_size": 8,
    "log_every": 1,  # means over several updates would cover fewer of them after a kill
    "device": "cpu",
    "policy": {
        "execution": "fixed:4",
        "cameras": ["front"],
        "image_size": 32,
        "state_dim": 4,
        "backbone": {
            "type": "compact",
            "num_cameras": 1,
            "image_size": 32,
            "width": 16,
            "slots": 3,
            "slot_dim": 8,
            "latents": 2,
            "heads": 2,
            "conv_stem": 8,
            "conv_width": 8,
            "conv_blocks": 1,
            "conv_bfloat16": False,
            "text_width": 8,
            "max_instruction_bytes": 40,
            "environment_state_dim": 0,
        },
        "head": {
            "type": "recurrent",
            "hidden_dim": 16,
            "num_heads": 2,
            "chunk_size": 4,
            "action_dim": 4,
            "context_dim": 16,
            "prelude": ["middle"],
            "core": ["late"],
            "coda": [],
            "mean_depth": 4,
            "backprop_depth": 2,
        },
    },
    "data": {"validation_fraction": 0.34, "image_shift": 2},
    "depth": {"mean": 4, "maximum": 8},
    "validation": {"every": 12, "depths": [1, 2, 4], "max_samples": 16, "batch_size": 8},
    "checkpoints": {"every": 4, "keep": 2},
}


@dataclass(frozen=True)
class Case:
    """A command whose runs are killed."""

    what: str
    where: str  # local: processes of this machine
    words: tuple[str, ...]  # of the command, after `rdvla`; run in the folder of a run
    ending: tuple[str, ...]  # glob patterns below that folder: what is there once the work is done
    needs: tuple[str, ...] = ()  # cases that come first, undisturbed

    @property
    def name(self) -> str:
        """E.g. ``training-local``."""
        return f"{self.what}-{self.where}"


def demonstrations(where: str = "local", workers: Sequence[str] = ("--workers", "2")) -> Case:
    """Record 6 episodes of a MetaWorld task."""
    words = ["demos", "--output", OUT, "--env", "metaworld", "--tasks", "[reach-v3]", "--cameras", "[front]"]
    words += ["--episodes_per_task", "6", "--image_size", "32", "--seed", "1", "--noise_levels", "[0.0,0.1]"]
    words += ["--steps_after_success", "3", *workers]
    return Case("demonstrations", where, tuple(words), (OUT, f".{OUT}*building*"))


def training(what: str = "training", options: Sequence[str] = ()) -> Case:
    """Train a tiny policy on them."""
    words = ("train", "--config", f"../../{SETUP}/train.yaml", "--resume", "true", *options)
    return Case(what, "local", words, (f"{OUT}/checkpoints/step-{STEPS:08d}",), needs=("demonstrations",))


def evaluation(where: str = "local", workers: Sequence[str] = ("--workers", "2")) -> Case:
    """Play 12 episodes with that policy: 6 under each of two stop rules."""
    words = ["eval", "--policy", f"../../{SETUP}/training/{OUT}", "--output", OUT, "--env", "metaworld"]
    words += ["--tasks", "[reach-v3]", "--episodes", "6", "--stops", "[4,action_change:1e-2]"]
    words += ["--max_steps", "60", "--timing_seconds", "0", *workers]
    return Case(
        "evaluation", where, tuple(words), (f"{OUT}/results.json",), needs=("demonstrations", "training")
    )


ON_RAY = ("--workers", "ray:2")
# (what, where) -> case. Ranks are a training's processes, which may be on machines of their own.
CASES = {
    ("training", "local"): training(),
    ("ranks", "local"): training("ranks", ("--compute.processes", "2")),
    ("demonstrations", "local"): demonstrations(),
    ("evaluation", "local"): evaluation(),
    ("demonstrations", "ray"): demonstrations("ray", ON_RAY),
    ("evaluation", "ray"): evaluation("ray", ON_RAY),
}


def write_setup(folder: Path) -> None:
    """Write the configuration of the trainings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(TRAIN, sort_keys=False), encoding="utf-8")
