"""Run directories: their policy, going on, moving, extending."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file

from rdvla.cli import main
from rdvla.config import save_config
from rdvla.config.check import option_names
from rdvla.errors import ConfigError
from rdvla.policy import RDVLAPolicy
from rdvla.training import CheckpointError, TrainConfig, Trainer, train
from rdvla.training.batches import Draw
from rdvla.training.config import CheckpointConfig, DataConfig
from rdvla.training.metrics import read_metrics
from rdvla.training.resuming import MAY_CHANGE, save_run_config
from rdvla.training.schedule import WarmupCosine
from tests.support.tiny_training import train_config

QUIET = Console(quiet=True)
LAST = CheckpointConfig(every=3, keep=2, policy="last")


def recording() -> Console:
    return Console(record=True, force_terminal=False, width=300, file=io.StringIO())


def record_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "policy/training.json").read_text())


def weights_are_averages_of(run: Path, step: int) -> bool:
    averaged = load_file(run / f"checkpoints/step-{step:08d}/ema.safetensors")
    saved = load_file(run / "policy/model.safetensors")
    return all(saved[name].equal(value) for name, value in averaged.items())


def best_step(run: Path) -> int:
    return int(json.loads((run / "checkpoints/best.json").read_text())["checkpoint"].removeprefix("step-"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A run whose best validation is its first one, after 6 of 12 updates; copy it before changing it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    losses = iter([0.5, 0.75])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdvla.training.trainer.validate", lambda *_, **__: {"l1_depth_4": next(losses)})
        train(train_config(dataset, folder), console=QUIET)
    assert best_step(folder) == 6
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def interrupt_after(trainer: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = trainer.sampler.draw

    def interrupting(number: int) -> Draw:
        if number == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(number)

    monkeypatch.setattr(trainer.sampler, "draw", interrupting)


# --- the policy of a run ---


def test_a_run_has_a_policy_from_its_first_validation_on(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = recording()
    trainer = Trainer(train_config(dataset, tmp_path / "run"), console=console)
    interrupt_after(trainer, 8, monkeypatch)
    assert trainer.run().policy_dir is None  # of a finished run
    assert weights_are_averages_of(tmp_path / "run", 6)
    record = record_of(tmp_path / "run")
    validation = read_metrics(tmp_path / "run/metrics.jsonl", kind="validation")[0]
    assert (record["steps"], record["chosen"]) == (6, "best")
    assert record["validation_loss"] == validation["l1_depth_4"]  # the last of the depths decides
    RDVLAPolicy.from_pretrained(tmp_path / "run")
    assert "the best weights, of step 6, validation loss" in console.export_text()


def test_a_finished_run_gives_its_best_or_its_last_weights(run: Path, dataset: Path) -> None:
    assert weights_are_averages_of(run, 6)
    config, figures = train_config(dataset, run, resume=True), (run / "metrics.jsonl").read_text()
    train(replace(config, checkpoints=LAST), console=QUIET)
    assert weights_are_averages_of(run, 12)
    assert (record_of(run)["steps"], record_of(run)["chosen"]) == (12, "last")
    train(config, console=QUIET)
    assert weights_are_averages_of(run, 6) and record_of(run)["steps"] == 6
    assert (run / "metrics.jsonl").read_text() == figures  # nothing was trained
    assert not list(run.glob(".policy*"))


def test_the_last_weights_are_exported_at_every_validation(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(dataset, tmp_path / "run", checkpoints=LAST)
    trainer = Trainer(config, console=QUIET)
    interrupt_after(trainer, 8, monkeypatch)
    trainer.run()
    assert (record_of(tmp_path / "run")["steps"], record_of(tmp_path / "run")["chosen"]) == (6, "last")
    train(replace(config, resume=True), console=QUIET)
    assert weights_are_averages_of(tmp_path / "run", 12)
    assert record_of(tmp_path / "run")["validation_loss"] > 0


def test_a_run_without_held_out_episodes_exports_what_it_has(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "run", data=DataConfig(validation_fraction=0), steps=8)
    train(config, console=QUIET)
    record = record_of(tmp_path / "run")
    assert (record["steps"], record["chosen"], record["validation_loss"]) == (8, "last", None)


@pytest.mark.parametrize("lost", ["policy", "policy/model.safetensors", "policy/training.json"])
def test_a_finished_run_always_gives_its_policy(run: Path, dataset: Path, lost: str) -> None:
    """Such as one that was killed after its last checkpoint and before its policy was there."""
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(train_config(dataset, run, resume=True), console=QUIET)
    assert weights_are_averages_of(run, 6) and record_of(run)["steps"] == 6


def test_a_damaged_best_checkpoint_is_named_with_the_way_out(run: Path, dataset: Path) -> None:
    shutil.rmtree(run / "policy")
    (run / "checkpoints/step-00000006/ema.safetensors").write_bytes(b"")
    config = train_config(dataset, run, resume=True)
    with pytest.raises(CheckpointError, match=r"of step 6, is lost: .*checkpoints\.policy=last"):
        train(config, console=QUIET)
    train(replace(config, checkpoints=LAST), console=QUIET)
    assert weights_are_averages_of(run, 12)


def test_a_run_that_fell_back_keeps_its_later_policy(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best checkpoint was the damaged one, and the one that was best before is pruned."""
    config = train_config(dataset, tmp_path / "run")
    config = replace(config, validation=replace(config.validation, every=3))
    losses = iter([0.75, 0.8, 0.5, 0.6, *[0.9] * 2])
    monkeypatch.setattr("rdvla.training.trainer.validate", lambda *_, **__: {"l1_depth_4": next(losses)})
    trainer = Trainer(replace(config, checkpoints=CheckpointConfig(every=3, keep=2)), console=QUIET)
    interrupt_after(trainer, 9, monkeypatch)
    trainer.run()
    assert trainer.store.steps() == [6, 9] and record_of(tmp_path / "run")["steps"] == 9
    (tmp_path / "run/checkpoints/step-00000009/ema.safetensors").write_bytes(b"")
    before = (tmp_path / "run/policy/model.safetensors").read_bytes()
    again = Trainer(replace(trainer.config, resume=True, resume_from_previous=True), console=QUIET)
    assert again.state.step == 6
    assert (tmp_path / "run/policy/model.safetensors").read_bytes() == before


# --- going on ---


def units_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "policy/statistics.json").read_text())


@pytest.mark.parametrize("version", ["this", "older"])
def test_a_run_goes_on_in_the_units_that_its_weights_were_trained_in(
    run: Path, dataset: Path, version: str
) -> None:
    """Whatever this version computes from the dataset; an older one recorded them with its policy only."""
    own = units_of(run)
    own["action"]["low"] = [value - 0.5 for value in own["action"]["low"]]
    (run / "policy/statistics.json").write_text(json.dumps(own))
    recorded = run / "statistics.json"
    recorded.unlink() if version == "older" else recorded.write_text(json.dumps(own))
    for steps in (15, 18):
        config = train_config(dataset, run, resume=True, steps=steps, checkpoints=LAST)
        train(config, console=QUIET)
        assert record_of(run)["steps"] == steps
        assert units_of(run) == own == json.loads(recorded.read_text())


def test_a_run_that_does_not_say_its_units_says_so(run: Path, dataset: Path) -> None:
    (run / "statistics.json").unlink()
    shutil.rmtree(run / "policy")
    first, second = recording(), recording()
    for console in (first, second):
        Trainer(train_config(dataset, run, resume=True), console=console)
    assert "units its weights were trained" in first.export_text()
    assert "units its weights were trained" not in second.export_text()


def test_an_extended_run_goes_on_and_ends_as_one_that_was_not_interrupted(
    run: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run, tmp_path / "other")
    console = recording()
    longer = train_config(dataset, run, resume=True, steps=20, log_every=1)
    assert train(longer, console=console).step == 20
    assert "The run was to end after 12 updates. Over the next 3" in console.export_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 20
    rates = {
        line["step"]: line["learning_rate"] for line in read_metrics(run / "metrics.jsonl", kind="train")
    }
    peak, schedule = longer.optimizer.learning_rate, WarmupCosine(20, 3, longer.optimizer.final_fraction)
    assert rates[12] == pytest.approx(0.02 * peak)
    assert rates[13] == pytest.approx(rates[12] + (schedule.factor(12) * peak - rates[12]) / 3)
    assert [rates[step] for step in range(15, 21)] == pytest.approx(
        [peak * schedule.factor(step - 1) for step in range(15, 21)]
    )
    interrupted = Trainer(replace(longer, output_dir=str(tmp_path / "other")), console=QUIET)
    interrupt_after(interrupted, 14, monkeypatch)
    interrupted.run()
    train(interrupted.config, console=QUIET)
    for name in ("weights", "ema", "optimizer"):
        file = f"checkpoints/step-00000020/{name}.safetensors"
        expected, actual = load_file(run / file), load_file(tmp_path / "other" / file)
        assert all(value.equal(actual[key]) for key, value in expected.items())


def test_a_run_cannot_become_shorter_than_it_is(run: Path, dataset: Path) -> None:
    before = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"has done 12 updates, more than steps=11"):
        Trainer(train_config(dataset, run, resume=True, steps=11), console=QUIET)
    assert (run / "config.yaml").read_text() == before


def test_a_checkpoint_of_an_older_version_knows_its_length_from_the_configuration(
    run: Path, dataset: Path
) -> None:
    state = run / "checkpoints/step-00000012/state.json"
    content = json.loads(state.read_text())
    assert content.pop("lengths") == [{"start": 0, "steps": 12}]
    del content["crc32"]
    state.write_text(json.dumps(content))
    trainer = Trainer(train_config(dataset, run, resume=True, steps=20), console=QUIET)
    assert [(length.start, length.steps) for length in trainer.state.lengths] == [(0, 12), (12, 20)]


def test_resuming_says_when_there_is_nothing_to_resume(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = recording(), recording(), recording()
    config = train_config(dataset, tmp_path / "run", resume=True)
    Trainer(config, console=first)
    assert f"There is no run in {tmp_path / 'run'} to go on with: a new one starts" in first.export_text()
    trainer = Trainer(config, console=second)
    assert "has no checkpoint yet: it starts again with its first update" in second.export_text()
    interrupt_after(trainer, 4, monkeypatch)
    trainer.run()
    Trainer(config, console=third)
    assert "Going on after step 4 of 12" in third.export_text()


def test_resuming_a_finished_run_says_so(run: Path, dataset: Path) -> None:
    console = recording()
    train(train_config(dataset, run, resume=True), console=console)
    assert "has done all of its 12 updates; --steps extends it" in console.export_text()


def test_every_option_that_may_change_exists_and_has_a_reason() -> None:
    assert MAY_CHANGE.keys() <= set(option_names(TrainConfig))
    assert all(MAY_CHANGE.values())
    page = (Path(__file__).parents[2] / "docs/runs.md").read_text()
    assert [name for name in MAY_CHANGE if f"`{name}`" not in page] == []


# --- moving ---


@pytest.fixture
def place(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the dataset `data` and a run `runs/old` of half its length, started from there."""
    shutil.copytree(dataset, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    config = train_config(Path("data"), Path("runs/old"))
    trainer = Trainer(config, console=QUIET)
    interrupt_after(trainer, 6, monkeypatch)
    trainer.run()
    return tmp_path


def goes_on(run: str) -> None:
    assert main(["train", "--config", f"{run}/config.yaml", "--resume", "true"]) == 0
    steps = [line["step"] for line in read_metrics(Path(run) / "metrics.jsonl", kind="train")]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert len(list(Path(run).glob("checkpoints/step-00000012"))) == 1


def test_a_run_names_no_folder_outside(place: Path) -> None:
    saved = yaml.safe_load(Path("runs/old/config.yaml").read_text())
    assert (saved["output_dir"], saved["dataset"]) == (".", "data")
    assert str(place) not in Path("runs/old/config.yaml").read_text() + Path("runs/old/run.json").read_text()


def test_a_moved_run_goes_on_where_it_lies(place: Path) -> None:
    shutil.move("runs/old", "runs/new")
    goes_on("runs/new")
    assert [path.name for path in Path("runs").iterdir()] == ["new"]


def test_a_run_goes_on_from_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "runs/old")
    goes_on("../old")


def test_a_run_and_its_dataset_may_move_together(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "elsewhere").mkdir()
    for name in ("runs", "data"):
        shutil.move(name, f"elsewhere/{name}")
    monkeypatch.chdir("/")
    goes_on(str(place / "elsewhere/runs/old"))


def test_a_dataset_and_a_cache_in_the_run_move_with_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("runs")
    shutil.move("data", "runs/old/data")
    config = train_config(Path("runs/old/data"), Path("runs/old"), resume=True)
    config = replace(config, data=replace(config.data, cache_dir=str(place / "runs/old/features")))
    trainer = Trainer(config, console=QUIET)
    interrupt_after(trainer, 6, monkeypatch)
    trainer.run()
    saved = yaml.safe_load(Path("runs/old/config.yaml").read_text())
    assert (saved["dataset"], saved["data"]["cache_dir"]) == ("./data", "./features")
    shutil.move("runs/old", "copy")
    goes_on("copy")
    assert not Path("runs/old").exists() and Path("copy/features").is_dir()


def test_an_id_on_the_hub_is_no_path_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    config = TrainConfig(dataset="lerobot/pusht,own", output_dir=".", init_from="user/policy@v1")
    config = replace(config, data=DataConfig(cache_dir="features/new"))
    save_run_config(Path(), config)
    saved = yaml.safe_load(Path("config.yaml").read_text())
    assert (saved["dataset"], saved["init_from"]) == ("lerobot/pusht,./own", "user/policy@v1")
    assert saved["data"]["cache_dir"] == "./features/new"  # which need not exist yet


def fingerprint_of_both_ends(dataset: Path) -> str:
    """What earlier versions recorded; all files are smaller than the ends that were read."""
    names = sorted(file.relative_to(dataset).as_posix() for file in dataset.rglob("*.*") if file.is_file())
    content = b""
    for name in names:
        if name != "meta/checksums.json":
            whole = (dataset / name).read_bytes()
            assert len(whole) < 1 << 16
            content += f"{name} {len(whole)} ".encode() + whole + whole
    return hashlib.sha256(content).hexdigest()[:16]


def test_a_run_of_an_older_version_goes_on_where_it_lies(place: Path) -> None:
    """It named its own folder as it was typed."""
    file = Path("runs/old/config.yaml")
    file.write_text(file.read_text().replace("output_dir: .", "output_dir: runs/old"))
    record = json.loads(Path("runs/old/run.json").read_text())
    Path("runs/old/run.json").write_text(
        json.dumps({k: record[k] for k in record if k[:2] not in ("st", "id")})
    )
    shutil.move("runs/old", "runs/new")
    goes_on("runs/new")
    assert not Path("runs/old").exists()


def test_the_folder_of_a_run_is_enough_to_go_on(place: Path) -> None:
    assert main(["train", "--output_dir", "runs/old", "--resume", "true"]) == 0
    assert Path("runs/old/checkpoints/step-00000012").is_dir()


def test_a_runs_configuration_may_begin_another_run(place: Path) -> None:
    assert main(["train", "--config", "runs/old/config.yaml", "--output_dir", "runs/second"]) == 0
    assert Path("runs/second/policy/config.json").is_file()
    assert not Path("runs/old/checkpoints/step-00000012").exists()


def test_a_dataset_that_is_gone_can_be_named_anew(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.move("data", "moved")
    arguments = ["train", "--config", "runs/old/config.yaml", "--resume", "true"]
    assert main(arguments) == 2
    assert "if it lies elsewhere now, give its place by --dataset." in capsys.readouterr().err
    assert main([*arguments, "--dataset", "moved"]) == 0


def test_a_file_of_options_is_not_a_run(place: Path) -> None:
    save_config("config.yaml", train_config(Path("data"), Path("runs/third")))
    assert main(["train", "--config", "config.yaml"]) == 0
    assert Path("runs/third/policy/config.json").is_file()


def test_a_run_records_what_it_computes_with_and_says_if_it_goes_on_elsewhere(
    dataset: Path, tmp_path: Path
) -> None:
    config = train_config(dataset, tmp_path / "run", steps=4)
    train(config, console=QUIET)
    file = tmp_path / "run/run.json"
    record = json.loads(file.read_text())
    used = record["computed_with"]
    assert used["torch"] == torch.__version__ and used["threads"] == 1 and used["device"] == "cpu"
    assert torch.backends.cpu.get_cpu_capability() in used["processor"]

    def said() -> str:
        console = recording()
        Trainer(replace(config, resume=True, steps=5), console=console)
        return console.export_text()

    assert "another arithmetic" not in said()
    file.write_text(json.dumps(record | {"computed_with": used | {"torch": "2.0.1", "threads": 7}}))
    assert f"threads 7 (now 1), torch 2.0.1 (now {torch.__version__})" in said()
    assert "torch 2.0.1" in said()  # as long as the run lives
    del record["computed_with"]  # of an older version
    file.write_text(json.dumps(record))
    assert "another arithmetic" not in said()


def test_cached_features_of_another_batch_size_are_used_and_named(dataset: Path, tmp_path: Path) -> None:
    config = train_config(dataset, tmp_path / "one", freeze_backbone=True)
    data = replace(config.data, cache_dir=str(tmp_path / "cache"), image_shift=0)

    def said(name: str, batch_size: int) -> str:
        console = recording()
        own = replace(data, cache_batch_size=batch_size)
        Trainer(replace(config, output_dir=str(tmp_path / name), data=own), console=console)
        return console.export_text()

    assert "cached features" not in said("one", 7)
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/shard-*")}
    assert "cached features were computed with batch size 7 (now 64)" in said("two", 64)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/shard-*")} == shards
