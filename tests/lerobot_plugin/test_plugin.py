"""The plugin inside real LeRobot: the same policy as here, trained and evaluated by LeRobot's commands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rdvla.cli import main
from rdvla.config import encode_config
from rdvla.data import EpisodeDataset
from rdvla.hashing import fingerprint
from rdvla.policy import RDVLAPolicy
from rdvla.policy.lerobot import write_lerobot
from rdvla.training.config import TrainConfig
from rdvla.training.inference import complete
from rdvla.training.setup import policy_statistics
from tests.support.lerobot import SOURCES, needs_lerobot, run_lerobot
from tests.support.six_joints import SIZES as SIX_JOINT_SIZES
from tests.support.six_joints import write_arm_dataset
from tests.support.tiny_models import CONFIG, make_policy

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ROUNDING = 1e-5  # float32; both run the same operations, in other orders
SIZES = {"front": (40, 60), "wrist": (32, 48)}
POLICIES = {
    "plain": CONFIG,
    "every_choice": replace(
        CONFIG,
        resize="crop",
        resize_cameras={"wrist": "stretch"},
        camera_sizes=SIZES,
        unscaled_actions=(3,),
        gripper_opening=(3,),
        clip_state=True,
        stop="action_change:1e-2",
        execution="binary:4,2,3",
        start="final",
    ),
}
TINY = [
    "--policy.backbone.width=16", "--policy.backbone.slots=3", "--policy.backbone.slot_dim=8",
    "--policy.backbone.latents=4", "--policy.backbone.heads=2", "--policy.backbone.conv_stem=4",
    "--policy.backbone.conv_width=8", "--policy.backbone.text_width=16", "--policy.image_size=32",
    "--policy.head.hidden_dim=16", "--policy.head.num_heads=2", "--policy.head.context_dim=16",
    "--policy.head.mean_depth=4", "--policy.chunk_size=4", "--policy.n_action_steps=2",
]  # fmt: skip


@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_updates_and_actions_are_those_of_rdvla(tmp_path: Path, config: object) -> None:
    needs_lerobot("lerobot_policy_rdvla")
    policy = make_policy(config)
    policy.save_pretrained(tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    write_lerobot(policy, tmp_path / "theirs")
    output = tmp_path / "compared.npz"
    script = [
        str(HERE / "compare_policies.py"),
        str(tmp_path / "ours"),
        str(tmp_path / "theirs"),
        str(output),
    ]
    run_lerobot(*script, home=tmp_path, paths=SOURCES)
    found = np.load(output)
    np.testing.assert_allclose(found["updates_theirs"], found["updates_ours"], rtol=1e-2, atol=ROUNDING)
    np.testing.assert_allclose(found["updates_theirs"][0], found["updates_ours"][0], rtol=1e-4)
    np.testing.assert_allclose(found["actions_theirs"], found["actions_ours"], rtol=1e-4, atol=ROUNDING)
    assert tuple(found["chunk_shape"]) == (3, config.head.chunk_size, config.head.action_dim)
    saved = RDVLAPolicy.from_pretrained(output.with_suffix(""))  # what LeRobot saved of it
    assert saved.config == policy.config and saved.statistics == policy.statistics
    assert fingerprint(saved) != fingerprint(policy)  # it was trained meanwhile


TAKE = """
import json, sys
from pathlib import Path
from lerobot_policy_rdvla import RDVLAConfig
from rdvla.config import encode_config
config = RDVLAConfig(device="cpu")
config.take_from_dataset(Path(sys.argv[1]))
features = {**config.input_features, **config.output_features}
found = {
    "policy": encode_config(config.policy_config()), "statistics": config.statistics,
    "features": {name: list(feature.shape) for name, feature in features.items()},
}
Path(sys.argv[2]).write_text(json.dumps(found))
"""


def test_a_new_policy_takes_from_a_dataset_what_rdvla_train_takes(tmp_path: Path) -> None:
    needs_lerobot("lerobot_policy_rdvla")
    root, output = write_arm_dataset(tmp_path / "arm"), tmp_path / "found.json"
    run_lerobot("-c", TAKE, str(root), str(output), home=tmp_path, paths=SOURCES)
    found = json.loads(output.read_text())
    dataset = EpisodeDataset(root, chunk_size=8)
    ours = complete(TrainConfig(dataset=str(root)), dataset, None).policy
    assert found["policy"] == json.loads(json.dumps(encode_config(ours)))
    assert found["statistics"].keys() == {"action", "observation.state"}
    for feature, entry in policy_statistics(ours, dataset.statistics).items():
        for name, values in entry.items():
            np.testing.assert_allclose(found["statistics"][feature][name], values, rtol=1e-6)
    images = {f"observation.images.{camera}": [3, *size] for camera, size in SIX_JOINT_SIZES.items()}
    assert found["features"] == {**images, "observation.state": [6], "action": [6]}


WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
two = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
image = {"dtype": "video", "shape": (96, 96, 3), "names": ["height", "width", "channel"]}
dataset = LeRobotDataset.create(
    "rdvla/pusht", fps=10, root=sys.argv[1], robot_type="pusht", use_videos=True,
    features={"observation.state": two, "action": two, "observation.image": image},
)
rng = np.random.default_rng(0)
for episode in range(2):
    place = rng.uniform(100, 400, size=2)
    for _ in range(12):
        step = rng.normal(size=2) * 10
        dataset.add_frame({
            "observation.state": place.astype(np.float32), "action": (place + step).astype(np.float32),
            "observation.image": rng.integers(0, 255, size=(96, 96, 3), dtype=np.uint8), "task": "push the T",
        })
        place = place + step
    dataset.save_episode()
dataset.finalize()
"""


def lerobot_train(home: Path, output: str, *options: str) -> list[float]:
    """Train two steps on the dataset of `home`; return the losses."""
    printed = run_lerobot(
        "-m", "lerobot.scripts.lerobot_train",
        "--dataset.repo_id=rdvla/pusht", f"--dataset.root={home / 'pusht'}", "--dataset.video_backend=pyav",
        "--policy.device=cpu", "--policy.push_to_hub=false", "--steps=2", "--save_freq=2", "--log_freq=1",
        "--batch_size=4", "--num_workers=0", "--wandb.enable=false", f"--output_dir={home / output}",
        *options, home=home, paths=SOURCES,
    )  # fmt: skip
    return [float(loss) for loss in re.findall(r" loss:(\S+)", printed)]


def lerobot_eval(home: Path, policy: Path, output: str, *options: str) -> list[float]:
    """Evaluate two episodes of pusht at once; return the sums of rewards."""
    run_lerobot(
        "-m", "lerobot.scripts.lerobot_eval",
        f"--policy.path={policy}", "--policy.device=cpu", "--env.type=pusht", "--env.episode_length=12",
        "--eval.n_episodes=2", "--eval.batch_size=2", "--eval.use_async_envs=false",
        f"--output_dir={home / output}", *options, home=home, paths=SOURCES,
    )  # fmt: skip
    (task,) = json.loads((home / output / "eval_info.json").read_text())["per_task"]
    return task["metrics"]["sum_rewards"]


def test_lerobot_trains_and_evaluates_and_rdvla_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_lerobot("lerobot_policy_rdvla", "gym_pusht")
    run_lerobot("-c", WRITE, str(tmp_path / "pusht"), home=tmp_path)
    losses = lerobot_train(tmp_path, "run", "--policy.type=rdvla", *TINY)
    assert len(losses) == 2 and np.isfinite(losses).all()
    trained = tmp_path / "run/checkpoints/last/pretrained_model"
    policy = RDVLAPolicy.from_pretrained(trained)
    assert policy.config.cameras == ("observation.image",)
    assert policy.config.camera_sizes == {"observation.image": (96, 96)}
    assert (policy.config.robot.type, policy.config.robot.action_names) == ("pusht", ("x", "y"))
    assert policy.records["training.json"]["instructions"] == ["push the T"]
    assert policy.records["training.json"]["steps"] == 2

    # Depth and execution are options of an evaluation; the task's only instruction is known.
    deep = ("--policy.stop=6", "--policy.execution=3")
    rewards = lerobot_eval(tmp_path, trained, "eval", *deep)
    assert main(["convert", str(trained), str(tmp_path / "ours"), "--to", "rdvla"]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs"), "--to", "lerobot"]) == 0
    assert lerobot_eval(tmp_path, tmp_path / "theirs", "eval_again", *deep) == pytest.approx(rewards)

    # What was trained there is measured here, in its folder and converted, with the same errors.
    errors = []
    for name in ("run", "ours"):
        capsys.readouterr()
        assert main(["openloop", str(tmp_path / name), str(tmp_path / "pusht"), "--stops", "4"]) == 0
        errors += re.findall(r"L1 (\S+)", capsys.readouterr().out)
    assert len(errors) == 2 and errors[0] == errors[1]
    # And training goes on, in the units that the policy was trained in.
    assert len(lerobot_train(tmp_path, "further", f"--policy.path={tmp_path / 'theirs'}")) == 2
    further = RDVLAPolicy.from_pretrained(tmp_path / "further")
    assert further.statistics == policy.statistics
    assert further.records["training.json"]["steps"] == 4
