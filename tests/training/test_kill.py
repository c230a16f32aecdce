"""A run that is killed with SIGKILL at any moment, and resumed, ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rdvla.training.metrics import read_metrics

# (function that a checkpoint is written with, how many calls go well before): inside a tensor
# file, before a folder gets its name, before a pointer moves, while an old checkpoint is removed, and
# between a checkpoint and the policy of the same step.
POINTS = [("save_file", 5), ("rename", 2), ("write_json", 6), ("rmtree", 2), ("policy rename", 1)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kill_host", str(dataset), str(folder), json.dumps(POINTS)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, "no run was killed"
    return folder


@pytest.mark.parametrize("name", ["random", *(f"{function}-{call}" for function, call in POINTS)])
def test_killed_and_resumed_run_ends_with_the_same_bits(runs: Path, name: str) -> None:
    for file in ("policy/model.safetensors", *_checkpoint_files()):
        expected, actual = load_file(runs / "reference" / file), load_file(runs / name / file)
        assert expected.keys() == actual.keys()
        for key, value in expected.items():
            assert value.equal(actual[key]), f"{file}: {key} differs"


@pytest.mark.parametrize("name", ["random", *(f"{function}-{call}" for function, call in POINTS)])
def test_log_of_a_resumed_run_has_every_line_once(runs: Path, name: str) -> None:
    lines = [read_metrics(runs / run / "metrics.jsonl") for run in ("reference", name)]
    expected, actual = ([(line["step"], line["kind"]) for line in run] for run in lines)
    assert len(set(actual)) == len(actual)
    assert set(expected) == set(actual)
    validations = [[line for line in run if line["kind"] == "validation"] for run in lines]
    assert validations[0] == validations[1]


def _checkpoint_files() -> list[str]:
    return [f"checkpoints/step-00000012/{name}.safetensors" for name in ("weights", "ema", "optimizer")]
