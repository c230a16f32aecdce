"""Datasets of what a person did: in MetaWorld, mixed with demonstrations in training, and in real LeRobot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rdvla.cli import main
from rdvla.data import EpisodeDataset
from tests.support.helped_episodes import Help, Standstill, play_and_record
from tests.support.lerobot import needs_lerobot, run_lerobot

pytestmark = pytest.mark.slow

SEED = 1_000_000
CAMERAS = ("front",)
ALONE = ("intervention", "intervention_cause", "policy_action", "uncertainty", "depth", "help_requested")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Help, dict]:
    """The policy stands still; a person comes twice, the second time until the hand is at the goal."""
    pytest.importorskip("metaworld")
    root = tmp_path_factory.mktemp("metaworld") / "rollout_reach"
    person = Help(spans=((5, 12), (20, None)))
    results = play_and_record(
        root, person, Standstill(4), env="metaworld", task="reach-v3", seeds=range(SEED, SEED + 2), steps=150,
        image_size=64, cameras=CAMERAS,
    )  # fmt: skip
    return root, person, results


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("metaworld")
    root = tmp_path_factory.mktemp("metaworld") / "demos"
    options = ["--episodes_per_task=2", "--image_size=64", "--steps_after_success=4", "--workers=1"]
    options += ["--tasks=[reach-v3]", "--cameras=[front]"]
    assert main(["demos", f"--output={root}", *options]) == 0
    return root


def test_the_expert_as_a_person_solves_what_the_policy_alone_does_not(recorded, tmp_path):
    root, person, results = recorded
    alone = play_and_record(
        tmp_path / "rollout_alone", Help(spans=()), Standstill(4), env="metaworld", task="reach-v3",
        seeds=range(SEED, SEED + 2), steps=150, image_size=64, cameras=CAMERAS,
    )  # fmt: skip
    for seed, result in results.items():
        assert not alone[seed].success
        assert result.success and result.interventions == 2
        assert result.driven_steps == result.steps - 13
    data = EpisodeDataset(root, chunk_size=1)
    assert len(np.unique(data.column("episode_index"))) == 4
    expected = {"action": [], "observation.state": [], "next.success": []}
    for seed in results:
        log = person.executed[seed]
        driven = [step for step in range(len(log.actions)) if person.drives(step)]
        expected["action"] += [np.clip(log.actions[step], -1, 1) for step in driven]
        expected["observation.state"] += [log.states[step] for step in driven]
        expected["next.success"] += [[log.successes[step]] for step in driven]
    for name, values in expected.items():
        np.testing.assert_array_equal(data.column(name), np.array(values))
    assert (data.column("policy_action") == 0).all()
    assert data.column("next.success").sum() == 2


def test_corrections_and_demonstrations_train_a_policy_together(recorded, demos, tmp_path):
    root, _, _ = recorded
    assert main(["data", "check", str(root)]) == 0
    assert main(["data", "inspect", str(root)]) == 0
    both = EpisodeDataset([demos, root], chunk_size=4)
    assert both.num_frames == sum(EpisodeDataset(one, chunk_size=4).num_frames for one in (demos, root))
    output = tmp_path / "run"
    options = [
        "--steps=4",
        "--batch_size=4",
        "--device=cpu",
        "--validation.every=4",
        "--validation.max_samples=4",
    ]
    assert main(["train", f"--dataset={demos},{root}", f"--output_dir={output}", *options]) == 0


READ = """
import sys, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, output = sys.argv[1:3]
dataset = LeRobotDataset("rdvla/rollout_reach", root=root, video_backend="pyav")
frames = [dataset[number] for number in range(len(dataset))]
names = ["action", "observation.state", *sys.argv[3:]]
read = {name: np.stack([frame[name].numpy() for frame in frames]) for name in names}
np.savez(output, episodes=dataset.num_episodes, **read)
"""


def test_merged_with_demonstrations_they_are_a_dataset_of_what_both_have(recorded, demos, tmp_path):
    root, _, _ = recorded
    both = tmp_path / "both"
    assert main(["data", "merge", str(demos), str(root), str(both)]) == 0
    parts = [EpisodeDataset(one, chunk_size=1) for one in (demos, root)]
    merged = EpisodeDataset(both, chunk_size=1)
    np.testing.assert_array_equal(
        merged.column("action"), np.concatenate([part.column("action") for part in parts])
    )
    assert not set(ALONE) & set(merged.features)
    assert {"privileged.environment_state", "next.success"} <= set(merged.features)


def test_lerobot_reads_corrections_and_trains_on_them(recorded, tmp_path):
    needs_lerobot()
    root, _, _ = recorded
    run_lerobot("-c", READ, str(root), str(tmp_path / "read.npz"), *ALONE, home=tmp_path)
    ours, theirs = EpisodeDataset(root, chunk_size=1), np.load(tmp_path / "read.npz")
    assert int(theirs["episodes"]) == 4
    for name in ("action", "observation.state", *ALONE):
        np.testing.assert_array_equal(theirs[name].reshape(ours.column(name).shape), ours.column(name))
    assert theirs["intervention"].dtype == bool
    run_lerobot(
        "-m", "lerobot.scripts.lerobot_train",
        "--dataset.repo_id=rdvla/rollout_reach", f"--dataset.root={root}", "--dataset.video_backend=pyav",
        "--policy.type=act", "--policy.pretrained_backbone_weights=null", "--policy.dim_model=32",
        "--policy.n_heads=2", "--policy.dim_feedforward=64", "--policy.n_encoder_layers=1",
        "--policy.n_vae_encoder_layers=1", "--policy.chunk_size=8", "--policy.n_action_steps=8",
        "--policy.device=cpu", "--policy.push_to_hub=false", "--steps=3", "--save_freq=3", "--log_freq=1",
        "--batch_size=2", "--num_workers=0", "--wandb.enable=false", f"--output_dir={tmp_path / 'run'}",
        home=tmp_path,
    )  # fmt: skip
    (saved,) = (tmp_path / "run").glob("checkpoints/000003/pretrained_model/config.json")
    config = json.loads(saved.read_text())
    assert set(config["input_features"]) == {"observation.images.front", "observation.state"}
    assert set(config["output_features"]) == {"action"}
