"""What `rdvla train` returns to a shell if a signal ended it: 128 and the signal's number."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rdvla import cli
from rdvla.config import save_config
from rdvla.training.batches import Sampler
from tests.support.tiny_training import train_config, write_dataset

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_stopped_training_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    run = tmp_path / "run"
    save_config(tmp_path / "train.yaml", train_config(write_dataset(tmp_path / "data"), run))
    draw = Sampler.draw

    def interrupting(sampler: Sampler, step: int) -> object:
        if step == 2:
            os.kill(os.getpid(), getattr(signal, name))
        return draw(sampler, step)

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "draw", interrupting)
        assert cli.main(["train", f"--config={tmp_path / 'train.yaml'}"]) == code
    assert not (run / "policy" / "model.safetensors").exists()
    if name == "SIGTERM":
        assert cli.main(["train", f"--config={run / 'config.yaml'}", "--resume=true"]) == 0
        assert (run / "policy" / "model.safetensors").exists()
