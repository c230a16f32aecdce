"""Whatever happens to a file: it is named, or nothing changes. A few hundred mutations, seeded.

The slow tests print a row of a table each: how many mutations end in which outcome (`pytest -s`).
"""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rdvla.config import decode_config, encode_config, read_yaml
from rdvla.data import EpisodeDataset
from rdvla.evaluation import load_results
from rdvla.evaluation.journal import Journal
from rdvla.interop.published_head import load_published_head
from rdvla.policy import RDVLAPolicy
from rdvla.rollout import read_frames
from rdvla.runtime.description import Description, read_description
from rdvla.training.checkpoints import Best, Checkpoint, CheckpointStore
from rdvla.training.config import TrainConfig
from rdvla.training.run_directory import RunDirectory
from rdvla.training.run_facts import describe_run
from rdvla.types import Observation
from tests.support.datasets import make_episode, make_writer
from tests.support.mutations import Read, json_mutations, random_mutations, tally
from tests.support.published_checkpoint import make_published
from tests.support.results_sample import make_results
from tests.support.tiny_models import make_observation, make_policy
from tests.support.tiny_training import train_config

OBSERVATION = make_observation(1)


@dataclass(frozen=True)
class Subject:
    """A folder that is read, and what may become of a damaged one."""

    make: Callable[[Path], None]  # fills a folder
    read: Read
    mutated: tuple[str, ...]  # patterns of files
    entries: tuple[str, ...] = ()  # of JSON files whose every entry is replaced too
    agree: Callable[[Any, Any], bool] = operator.eq  # whether a result is that of the whole folder
    checked: bool = True  # everything that counts has a checksum, so nothing may be read as something else


def save_policy(folder: Path) -> None:
    make_policy().save_pretrained(folder)


def save_unchecked_policy(folder: Path) -> None:
    save_policy(folder)
    (folder / "checksums.json").unlink()


def read_policy(folder: Path) -> Any:
    policy = RDVLAPolicy.from_pretrained(folder)
    start = policy.initial_state(1, torch.Generator().manual_seed(0))
    images = dict(
        zip(policy.config.cameras, OBSERVATION.images.values(), strict=False)
    )  # whatever they are called
    observation = Observation(images, OBSERVATION.state, OBSERVATION.instruction)
    return policy.predict(observation, stop=2, initial_state=start).actions.tolist()


def save_dataset(folder: Path) -> None:
    writer = make_writer(folder)
    for number in range(2):
        writer.add_episode(make_episode(number, length=6))
    writer.finalize()


def save_unchecked_dataset(folder: Path) -> None:
    save_dataset(folder)
    (folder / "meta/checksums.json").unlink()


def read_dataset(folder: Path) -> Any:
    dataset = EpisodeDataset(folder, chunk_size=3, cameras=["front"])
    frames = range(dataset.num_frames)
    images = dataset.images(frames)["front"].numpy().tobytes()
    return dataset.actions(dataset.sample_index).tolist(), images, dataset.instructions(frames)


def save_checkpoint(folder: Path) -> None:
    values = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    store = CheckpointStore(folder)
    for step in (3, 6):
        store.save(
            Checkpoint(step, values, values, {"m": values["a"]}, seconds=1.5, best=Best(step=3, loss=0.25))
        )


def read_checkpoint(folder: Path) -> Any:
    found = CheckpointStore(folder).load_latest()
    assert found is not None
    tensors = [{name: value.tolist() for name, value in each.items()} for each in (found.weights, found.ema)]
    return found.step, found.seconds, found.best, found.lengths, tensors


def save_run(folder: Path) -> None:
    config = train_config(Path("demos"), folder)
    RunDirectory(config).begin(
        config, {"dataset": {"fingerprint": "f"}}, statistics={"action": {"q01": [0.0]}}
    )
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 3, "loss": 0.5}\n')


def read_run(folder: Path) -> Any:
    describe_run(folder)
    values = read_yaml(folder / "config.yaml")
    config = decode_config(TrainConfig, values, source=str(folder / "config.yaml"))
    config = replace(config, output_dir=str(folder), resume=True)
    RunDirectory(config).begin(
        config, {"dataset": {"fingerprint": "f"}}, statistics={"action": {"q01": [0.0]}}
    )
    return {name: value for name, value in encode_config(config).items() if name != "output_dir"}


def save_journal(folder: Path) -> None:
    folder.mkdir()
    journal = Journal(folder / "episodes.jsonl")
    for episode in make_results(folder / "other", videos=0, episodes=1, depths=(1, 2)).episodes:
        journal.add(episode)
    journal.close()


def read_journal(folder: Path) -> Any:
    journal = Journal(folder / "episodes.jsonl")
    journal.close()
    return list(journal.episodes.values())


def save_results(folder: Path) -> None:
    make_results(folder, videos=0, episodes=2, depths=(1,))


def save_video(folder: Path) -> None:
    make_results(folder, videos=1, episodes=1, depths=(1,), tasks=("push",), adaptive=False)


def read_video(folder: Path) -> Any:
    (path,) = (folder / "videos").iterdir()
    return [picture.tobytes() for picture in read_frames(path, [0, 5])]


def save_export(folder: Path) -> None:
    folder.mkdir()
    (folder / "policy.onnx").write_bytes(b"graph")
    Description(
        part="policy", precision="fp32", chunk_size=4, action_dim=4, hidden_dim=16, initial_state_std=0.6,
        stop="fixed:4", execution="fixed:3", cameras=("front",), image_size=32, state_dim=3,
    ).write(folder)  # fmt: skip


def save_published(folder: Path) -> None:
    make_published(folder)


def read_published(folder: Path) -> Any:
    head, projector = load_published_head(folder)
    return head.config, [value.tolist() for part in (head, projector) for value in part.state_dict().values()]


JSON, POLICY = ("config.json", "statistics.json"), ("*.json", "*.safetensors")
CHECKED = ("data/**/*.parquet", "videos/**/*.mp4", "meta/**/*.parquet")
SUBJECTS = {
    "policy": Subject(save_policy, read_policy, POLICY, JSON),
    "policy without checksums": Subject(save_unchecked_policy, read_policy, POLICY, JSON, checked=False),
    "dataset": Subject(save_dataset, read_dataset, CHECKED),
    "dataset without checksums": Subject(
        save_unchecked_dataset,
        read_dataset,
        ("**/*.parquet", "**/*.mp4", "meta/*.json"),
        ("meta/info.json",),
        checked=False,
    ),
    "checkpoint": Subject(
        save_checkpoint, read_checkpoint, ("step-00000006/*", "latest.json"), ("step-00000006/state.json",)
    ),
    "run": Subject(
        save_run, read_run, ("config.yaml", "run.json", "metrics.jsonl"), ("run.json",), checked=False
    ),
    "episodes.jsonl": Subject(
        save_journal, read_journal, ("episodes.jsonl",),
        agree=lambda found, whole: found == whole[: len(found)],
    ),  # what a kill cut off is played again
    "results.json": Subject(
        save_results, lambda folder: load_results(folder), ("results.json",), ("results.json",), checked=False
    ),
    "video": Subject(save_video, read_video, ("videos/*.mp4",), checked=False),
    "export": Subject(save_export, read_description, ("*",), ("runtime.json",)),
    "published": Subject(
        save_published, read_published, ("action_head*", "proprio*"),
        ("action_head_config--7_checkpoint.json",), checked=False,
    ),
}  # fmt: skip


def run_subject(name: str, tmp_path: Path, *, randoms: int, entries: int | None) -> tuple[str, list[str]]:
    """Return a row of the table, and what must not have happened."""
    subject = SUBJECTS[name]
    folder = tmp_path / "whole"
    subject.make(folder)
    files = sorted(
        {path.relative_to(folder).as_posix() for pattern in subject.mutated for path in folder.glob(pattern)}
    )
    files = [file for file in files if (folder / file).is_file() and (folder / file).stat().st_size]
    made = list(random_mutations(folder, files, count=randoms, seed=0))
    replaced = list(json_mutations(folder, list(subject.entries)))
    made += replaced if entries is None else random.Random(0).sample(replaced, min(entries, len(replaced)))
    counts, lines = tally(folder, iter(made), subject.read, place=tmp_path / "mutated", agree=subject.agree)
    allowed = () if subject.checked else ("other",)
    return f"{name}: {len(made)}: {dict(counts)}", [
        line for line in lines if line.split(":")[0] not in allowed
    ]


@pytest.mark.parametrize("name", SUBJECTS)
def test_damage_is_named_or_changes_nothing(name: str, tmp_path: Path):
    _, wrong = run_subject(name, tmp_path, randoms=12, entries=12)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_much_damage_is_named_or_changes_nothing(name: str, tmp_path: Path):
    row, wrong = run_subject(name, tmp_path, randoms=200, entries=300)
    sys.stdout.write(f"{row}\n")
    assert not wrong
