"""Real LeRobot reads, merges and trains on what rdvla writes, and sees nothing that a robot does not have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rdvla.cli import main
from rdvla.data import EpisodeDataset
from tests.support.lerobot import needs_lerobot, run_lerobot
from tests.support.six_joints import JOINTS, SIZES, write_arm_dataset

pytestmark = pytest.mark.slow

SMALL_ACT = [
    "--policy.type=act", "--policy.pretrained_backbone_weights=null", "--policy.dim_model=32",
    "--policy.n_heads=2", "--policy.dim_feedforward=64", "--policy.n_encoder_layers=1",
    "--policy.n_vae_encoder_layers=1", "--policy.chunk_size=8", "--policy.n_action_steps=8",
]  # fmt: skip
SMALL_DIFFUSION = [
    "--policy.type=diffusion", "--policy.pretrained_backbone_weights=null", "--policy.crop_shape=[56,56]",
    "--policy.down_dims=[16,32]", "--policy.n_groups=4", "--policy.spatial_softmax_num_keypoints=4",
]  # fmt: skip
SMALL_VQBET = [
    "--policy.type=vqbet", "--policy.pretrained_backbone_weights=null", "--policy.crop_shape=[56,56]",
    "--policy.gpt_n_layer=1", "--policy.gpt_n_head=2", "--policy.gpt_input_dim=32",
    "--policy.gpt_hidden_dim=32", "--policy.gpt_output_dim=32", "--policy.dropout=0",
]  # fmt: skip
STEPS = 3


def record(root: Path, cameras: str) -> Path:
    needs_lerobot()
    pytest.importorskip("metaworld")
    options = ["--episodes_per_task=2", "--image_size=64", "--steps_after_success=4", "--workers=1"]
    options += ["--tasks=[reach-v3]", f"--cameras=[{cameras}]"]
    assert main(["demos", f"--output={root}", *options]) == 0
    return root


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("metaworld") / "demos", "front,side")


@pytest.fixture(scope="module")
def one_camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("metaworld") / "one_camera", "front")


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_lerobot()
    return write_arm_dataset(tmp_path_factory.mktemp("arm") / "dataset")


def train(root: Path, output: Path, policy: list[str]) -> dict:
    """Train some steps with `lerobot-train`; return the configuration that it saved with the policy."""
    printed = run_lerobot(
        "-m", "lerobot.scripts.lerobot_train",
        "--dataset.repo_id=rdvla/test", f"--dataset.root={root}", "--dataset.video_backend=pyav",
        *policy, "--policy.device=cpu", "--policy.push_to_hub=false",
        f"--steps={STEPS}", f"--save_freq={STEPS}", "--log_freq=1", "--batch_size=2", "--num_workers=0",
        "--wandb.enable=false", f"--output_dir={output}", home=output.parent,
    )  # fmt: skip
    losses = [float(loss) for loss in re.findall(r" loss:(\S+)", printed)]
    assert len(losses) == STEPS and np.isfinite(losses).all(), printed[-2000:]
    (saved,) = output.glob(f"checkpoints/{STEPS:06d}/pretrained_model/config.json")
    return json.loads(saved.read_text())


@pytest.mark.parametrize(
    ("policy", "packages"), [(SMALL_ACT, ()), (SMALL_DIFFUSION, ("diffusers",))], ids=["act", "diffusion"]
)
def test_lerobots_policies_train_on_demonstrations_and_see_cameras_and_state_only(
    demos: Path, tmp_path: Path, policy: list[str], packages: tuple[str, ...]
) -> None:
    needs_lerobot(*packages)
    features = json.loads((demos / "meta/info.json").read_text())["features"]
    assert {"privileged.environment_state", "privileged.environment_keypoints", "camera_is_new"} <= set(
        features
    )
    config = train(demos, tmp_path / "run", policy)
    assert {name: feature["type"] for name, feature in config["input_features"].items()} == {
        "observation.images.front": "VISUAL",
        "observation.images.side": "VISUAL",
        "observation.state": "STATE",
    }
    assert set(config["output_features"]) == {"action"}


@pytest.mark.parametrize("policy", [SMALL_VQBET, ["--policy.type=tdmpc"]], ids=["vqbet", "tdmpc"])
def test_lerobots_policies_for_one_camera_train_too(
    one_camera: Path, tmp_path: Path, policy: list[str]
) -> None:
    config = train(one_camera, tmp_path / "run", policy)
    assert set(config["input_features"]) == {"observation.images.front", "observation.state"}


def test_lerobot_trains_on_a_robot_of_ones_own(arm: Path, tmp_path: Path) -> None:
    inputs = train(arm, tmp_path / "run", SMALL_ACT)["input_features"]
    assert inputs.pop("observation.state") == {"type": "STATE", "shape": [len(JOINTS)]}
    assert inputs == {
        f"observation.images.{camera}": {"type": "VISUAL", "shape": [3, *size]}
        for camera, size in SIZES.items()
    }


READ = """
import sys, numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
root, output = sys.argv[1:]
dataset = LeRobotDataset("rdvla/test", root=root, video_backend="pyav")
frames = [dataset[number] for number in range(len(dataset))]
keys = [name for name in dataset.features if name.startswith("observation.images.")]
np.savez(
    output, robot=dataset.meta.robot_type, episodes=dataset.num_episodes, task=frames[-1]["task"],
    names=dataset.features["action"]["names"], units=dataset.features["action"]["units"],
    **{name: np.stack([frame[name].numpy() for frame in frames]) for name in ("action", "observation.state", "timestamp")},
    **{name: np.stack([(frame[name].numpy() * 255).round().astype(np.uint8) for frame in frames[:15]]) for name in keys},
)
"""  # noqa: E501


def test_lerobot_reads_what_rdvla_reads(arm: Path, tmp_path: Path) -> None:
    run_lerobot("-c", READ, str(arm), str(tmp_path / "read.npz"), home=tmp_path)
    ours, theirs = EpisodeDataset(arm, chunk_size=1), np.load(tmp_path / "read.npz")
    assert (str(theirs["robot"]), int(theirs["episodes"])) == ("six_joint_arm", ours.num_episodes)
    assert str(theirs["task"]) == ours.instructions([0])[0]
    assert theirs["names"].tolist() == ours.names("action")
    assert theirs["units"].tolist() == ours.units("action")
    for name in ("action", "observation.state"):
        np.testing.assert_array_equal(theirs[name], ours.column(name))
    images = ours.images(range(15))
    for camera in SIZES:
        shown = theirs[f"observation.images.{camera}"].transpose(0, 2, 3, 1)
        np.testing.assert_array_equal(shown, images[camera])


MERGE = """
import sys
from lerobot.datasets.dataset_tools import merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset
first, second, output = sys.argv[1:]
both = [LeRobotDataset("rdvla/" + name, root=root) for name, root in (("a", first), ("b", second))]
merge_datasets(both, output_repo_id="rdvla/both", output_dir=output)
"""


def test_rdvla_reads_what_lerobot_merged_of_its_datasets(demos: Path, tmp_path: Path) -> None:
    run_lerobot("-c", MERGE, str(demos), str(demos), str(tmp_path / "both"), home=tmp_path)
    once, twice = EpisodeDataset(demos, chunk_size=4), EpisodeDataset(tmp_path / "both", chunk_size=4)
    assert twice.num_frames == 2 * once.num_frames and len(twice) == 2 * len(once)
    for name in ("action", "camera_is_new", "privileged.environment_state"):
        np.testing.assert_array_equal(twice.column(name), np.tile(once.column(name), (2, 1)))
    frames = np.arange(once.num_frames)
    for camera, images in once.images(frames).items():
        np.testing.assert_array_equal(twice.images(frames + once.num_frames)[camera], images)
