"""Impossible numbers and places: one sentence each, before any work."""

from __future__ import annotations

import io
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from rdvla.cli import main
from rdvla.config import save_config
from rdvla.errors import RDVLAError
from rdvla.policy import RDVLAPolicy
from rdvla.training import Trainer, train
from rdvla.training.batches import Draw, Sampler
from rdvla.training.checkpoints import CheckpointStore
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)
HUGE = str(2**70)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("seed", "-1", "at least 0"),
        ("seed", HUGE, "at most"),
        ("seed", "1.5", "expected int"),
        ("data.split_seed", "-1", "0 or larger"),
        ("data.split_seed", HUGE, "at most"),
        ("optimizer.learning_rate", "nan", "larger than 0"),
        ("optimizer.learning_rate", "inf", "at most"),
        ("optimizer.learning_rate", "1e30", "at most 1:"),
        ("optimizer.learning_rate", "0", "larger than 0"),
        ("optimizer.weight_decay", "inf", "at most"),
        ("optimizer.clip_norm", "nan", "larger than 0"),
        ("optimizer.warmup_steps", "-1", "0 or larger"),
        ("optimizer.beta1", "nan", "at least 0"),
        ("optimizer.final_fraction", "nan", "0..1"),
        ("batch_size", "0", "at least 1"),
        ("batch_size", HUGE, "at most"),
        ("steps", "1e3", "expected int"),
        ("steps", "inf", "expected int"),
        ("steps", HUGE, "at most"),
        ("data.memory_limit_gb", "inf", "at most"),
        ("data.memory_limit_gb", "nan", "0 or larger"),
        ("data.validation_fraction", "nan", "at least 0"),
        ("data.validation_fraction", "1", "below 1"),
        ("data.sample_every", "0", "larger than 0"),
        ("validation.depths", "[]", "one or more"),
        ("validation.depths", "[0]", "at least 1"),
        ("validation.every", "-1", "0 or larger"),
        ("validation.max_samples", HUGE, "at most"),
        ("checkpoints.every", "0", "larger than 0"),
        ("checkpoints.keep", "0", "larger than 0"),
        ("checkpoints.policy", "newest", "choose from"),
        ("depth.mean", "nan", "larger than 0"),
        ("depth.mean", "inf", "at most"),
        ("ema.decay", "nan", "at least 0"),
        ("loss.proprio_noise", "inf", "at most"),
        ("warm_start.share", "nan", "0..1"),
        ("log_every", "0", "at least 1"),
        ("threads", "0", "at least 1"),
        ("threads", HUGE, "at most"),
    ],
)
def test_an_impossible_number_gets_one_sentence(
    option: str, value: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    arguments = ["--dataset", "no/such", "--output_dir", str(output), f"--{option}={value}"]
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert option in error and said in error and error.count("\n") == 1
    assert "no/such" not in error and not output.exists()


@pytest.mark.parametrize("place", ["file/run", "/dev/null/run", "/proc/run"])
def test_an_output_that_cannot_be_written_is_named_before_the_dataset_is_opened(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    output = str(tmp_path / place)
    assert main(["train", "--dataset", str(tmp_path / "none"), "--output_dir", output]) == 2
    error = capsys.readouterr().err
    assert "output_dir" in error and output in error and error.count("\n") == 1


def test_a_disk_without_room_for_a_checkpoint_is_named_before_the_first_update(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(train_config(dataset, tmp_path / "run"), console=QUIET)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(RDVLAError, match=r"has 0\.1 MB left, and a checkpoint with its policy takes 0\.\d"):
        trainer.run()
    assert trainer.state.step == 0
    monkeypatch.undo()
    assert trainer.run().finished
    written = [tmp_path / "run/policy/model.safetensors", *trainer.store.path(12).glob("*.safetensors")]
    size = sum(file.stat().st_size for file in written)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=int(0.95 * size)))
    with pytest.raises(RDVLAError, match="make room"):
        trainer.store.check_room(trainer.state.checkpoint())
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=int(1.05 * size)))
    trainer.store.check_room(trainer.state.checkpoint())


def test_a_full_disk_ends_a_run_with_one_sentence_and_a_checkpoint_to_go_on_from(
    dataset: Path, tmp_path: Path
) -> None:
    """The system refuses files above a size, as a full disk refuses all; the run's weights are larger."""
    config = train_config(dataset, tmp_path / "run", trackers=())
    trainer = Trainer(config, console=QUIET)
    update = trainer.update
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk_after_the_seventh(draw):
        if draw.step == 7:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        return update(draw)

    trainer.update = fill_the_disk_after_the_seventh
    try:
        with pytest.raises(RDVLAError) as failure:
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    kept = tmp_path / "run/checkpoints/step-00000006"
    said = str(failure.value)
    assert "step-00000009/weights.safetensors: the file would be larger than this system allows" in said
    assert "\n" not in said and ".tmp" not in said
    assert f"stopped after step 9; its last whole checkpoint is {kept}. Go on with: rdvla train" in said
    assert CheckpointStore(tmp_path / "run/checkpoints").load_latest().step == 6
    assert not list((tmp_path / "run").rglob(".*"))  # nothing half-written takes up room
    RDVLAPolicy.from_pretrained(tmp_path / "run")
    train(replace(config, resume=True), console=QUIET)
    train(replace(config, output_dir=str(tmp_path / "reference")), console=QUIET)
    file = "checkpoints/step-00000012/weights.safetensors"
    expected, actual = (load_file(tmp_path / run / file) for run in ("reference", "run"))
    assert all(value.equal(actual[name]) for name, value in expected.items())


def test_a_policy_that_cannot_be_written_leaves_the_older_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(dataset, tmp_path / "run", steps=6)
    train(config, console=QUIET)
    before = (tmp_path / "run/policy/model.safetensors").read_bytes()

    def full(self: RDVLAPolicy, folder: Path, **_: object) -> None:
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(RDVLAPolicy, "save_pretrained", full)
        longer = replace(config, resume=True, steps=12)
        longer = replace(longer, checkpoints=replace(config.checkpoints, policy="last"))
        with pytest.raises(RDVLAError, match=r"no space is left .* whole checkpoint is .*step-00000012"):
            train(longer, console=QUIET)
    assert (tmp_path / "run/policy/model.safetensors").read_bytes() == before
    assert not list((tmp_path / "run").glob(".policy*"))
    train(longer, console=QUIET)
    assert RDVLAPolicy.from_pretrained(tmp_path / "run").records["training.json"]["steps"] == 12


def test_a_run_says_what_it_wrote_how_long_it_takes_and_what_comes_next(
    dataset: Path, tmp_path: Path
) -> None:
    console = Console(record=True, width=300, file=io.StringIO())
    run = tmp_path / "my run"
    train(train_config(dataset, run, steps=14), console=console)
    said = console.export_text()
    assert "ms an update: about" in said and "for the 4 updates to come" in said
    assert "Finished: 14 updates in" in said
    assert f"{run / 'policy'}: the best weights, of step" in said
    assert f"rdvla eval --policy '{run}'" in said and f"rdvla info '{run}'" in said
    assert "tensorboard --logdir" in said and str(run / "metrics.jsonl") in said
    assert "--resume true --steps 28" in said


def test_a_trained_view_is_followed_by_training_a_head(dataset: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=300, file=io.StringIO())
    train(train_config(dataset, tmp_path / "run", objective="perception", steps=4), console=console)
    assert f"rdvla train --init_from {tmp_path / 'run'} --freeze_backbone true" in console.export_text()


def test_an_interrupted_command_has_an_exit_code_of_its_own(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that goes on with the policy must not take it for a finished one."""
    save_config(tmp_path / "options.yaml", train_config(dataset, tmp_path / "run"))
    draw = Sampler.draw

    def interrupting(self: Sampler, step: int) -> Draw:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(self, step)

    monkeypatch.setattr(Sampler, "draw", interrupting)
    assert main(["train", "--config", str(tmp_path / "options.yaml")]) == 143
