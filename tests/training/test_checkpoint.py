"""Checkpoints: whole or absent, damage noticed, old ones removed; logs without duplicates."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

from rdvla.training import CheckpointError
from rdvla.training.checkpoints import Best, Checkpoint, CheckpointStore
from rdvla.training.metrics import MetricsLog, drop_later_lines, read_metrics
from rdvla.training.trackers import open_trackers


def _checkpoint(step: int, best: Best | None = None) -> Checkpoint:
    values = {"a": torch.full((3,), float(step)), "b": torch.tensor(step)}
    return Checkpoint(
        step=step, seconds=1.5 * step, best=best, weights=values, ema=values, optimizer={"m": values["a"]}
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.load_latest() is None
    store.save(_checkpoint(5, Best(step=5, loss=0.25)))
    loaded = store.load_latest()
    assert loaded is not None
    assert (loaded.step, loaded.seconds, loaded.best) == (5, 7.5, Best(step=5, loss=0.25))
    assert loaded.weights["a"].equal(torch.full((3,), 5.0))
    assert loaded.weights["b"].dtype == torch.int64


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    best = Best(step=2, loss=0.1)
    for step in range(1, 7):
        store.save(_checkpoint(step, best if step >= 2 else Best(step=1, loss=0.5)))
    assert store.steps() == [2, 5, 6]
    assert store.named("best") == store.path(2)
    assert store.named("latest") == store.path(6)
    assert not list(tmp_path.glob(".*"))


def test_without_a_pointer_the_newest_checkpoint_is_the_latest(tmp_path: Path) -> None:
    """A kill can come between the first checkpoint and its pointer."""
    store = CheckpointStore(tmp_path)
    for step in (1, 2):
        store.save(_checkpoint(step))
    (tmp_path / "latest.json").unlink()
    latest = store.load_latest()
    assert latest is not None and latest.step == 2
    (store.path(2) / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="step-00000002 is damaged"):
        store.load_latest()


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "empty"])
def test_damage_is_named_and_the_previous_one_is_used_only_when_asked_for(
    tmp_path: Path, file: str, damage: str
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(_checkpoint(1))
    target = store.save(_checkpoint(2)) / file
    content = bytearray(target.read_bytes())
    if damage == "missing":
        target.unlink()
    elif damage == "flipped":
        content[0] ^= 0xFF
        target.write_bytes(content)
    else:
        target.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError, match=r"step-00000002.*resume_from_previous=true"):
        store.load_latest()
    previous = store.load_latest(fall_back=True)
    assert previous is not None
    assert previous.step == 1
    shutil.rmtree(store.path(1))
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is intact"):
        store.load_latest(fall_back=True)


def test_the_first_checkpoint_after_a_fall_back_replaces_the_damaged_newer_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (3, 4, 5):
        store.save(_checkpoint(step, Best(step=3, loss=0.5) if step < 5 else Best(step=5, loss=0.25)))
    assert store.steps() == [4, 5]
    (store.path(5) / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        store.load_latest()
    store.keep = 1
    store.save(_checkpoint(4, Best(step=3, loss=0.5)))
    assert store.steps() == [4]
    latest = store.load_latest()
    assert latest is not None and latest.step == 4
    assert store.named("best") is None  # of step 3, which was pruned when 5 was the best
    store.save(_checkpoint(6, Best(step=6, loss=0.1)))
    assert (store.steps(), store.named("best")) == ([6], store.path(6))


@pytest.mark.parametrize("content", ["", "{}", '{"checkpoint": "../../etc"}', "[]"])
def test_a_damaged_pointer_is_named(tmp_path: Path, content: str) -> None:
    store = CheckpointStore(tmp_path)
    store.save(_checkpoint(1))
    (tmp_path / "latest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"latest\.json is damaged"):
        store.load_latest()
    assert store.load_latest(fall_back=True) is not None


def test_lines_after_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) for step in (1, 2, 3, 4)]
    file.write_text("\n".join(lines) + '\n{"step": 2, "ki')
    drop_later_lines(file, step=2)
    assert [line["step"] for line in read_metrics(file)] == [1, 2]


def test_log_writes_lines_and_tensorboard(tmp_path: Path) -> None:
    for start in (0, 2):
        trackers = open_trackers(
            ("tensorboard",), folder=tmp_path, resumed_step=start, run_id="x", options={"steps": 5}
        )
        log = MetricsLog(tmp_path, resumed_step=start, trackers=trackers)
        for step in range(start + 1, start + 4):
            log.write(step=step, kind="train", scalars={"loss": 1.0 / step})
        log.close()
        time.sleep(1.1)  # TensorBoard orders files by the second of their name, as runs that go on lie apart
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert read_metrics(tmp_path / "metrics.jsonl", kind="validation") == []
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5]
