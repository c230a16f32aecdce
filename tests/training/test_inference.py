"""What a run takes from its dataset, and what it refuses before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rdvla.config import load_config
from rdvla.data import DatasetWriter, Episode, EpisodeDataset
from rdvla.errors import ConfigError, InputError
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.training import TrainConfig, Trainer, train
from rdvla.types import Observation

QUIET = Console(quiet=True)
JOINTS = ("pan", "lift", "elbow", "flex", "roll", "gripper")
SIZE = (48, 64)
TASK = "put the cube in the box"


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six joints in degrees, the gripper in -1..1, one camera that is not square; joints are named."""
    names = [f"{joint}.pos" for joint in JOINTS]
    declared = {"dtype": "float32", "shape": (6,), "names": names, "units": ["deg"] * 5 + ["closed"]}
    writer = DatasetWriter.create(
        tmp_path_factory.mktemp("arm") / "arm",
        fps=30,
        features={"observation.state": declared, "action": declared},
        cameras=("front",),
        image_size=SIZE,
        robot_type="so100",
    )
    rng = np.random.default_rng(0)
    for number in range(4):
        t = np.linspace(0, 6, 20)[:, None]
        joints = 90 * np.sin(t + np.arange(6) + number)
        joints[:, 5] = np.sign(joints[:, 5])
        images = rng.integers(0, 256, (20, *SIZE, 3), dtype=np.uint8)
        values = joints.astype(np.float32)
        writer.add_episode(
            Episode({"observation.state": values, "action": values}, {"front": images}, TASK), number=number
        )
    return writer.finalize()


def config_for(dataset: Path, run: Path, *words: str) -> TrainConfig:
    return load_config(
        TrainConfig,
        [
            f"--dataset={dataset}", f"--output_dir={run}", "--steps=3", "--batch_size=4",
            "--validation.depths=[1, 2]", "--depth.mean=2", "--device=cpu", *words,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(arm: Path, tmp_path_factory: pytest.TempPathFactory) -> RDVLAPolicy:
    result = train(config_for(arm, tmp_path_factory.mktemp("run") / "run"), console=QUIET)
    return RDVLAPolicy.from_pretrained(result.policy_dir or "")


def test_cameras_sizes_grippers_and_robot_come_from_the_dataset(trained: RDVLAPolicy) -> None:
    config = trained.config
    assert config.cameras == ("front",) and config.camera_sizes == {"front": SIZE}
    assert (config.state_dim, config.head.action_dim, config.image_size) == (6, 6, 128)
    assert config.unscaled_actions == (5,)
    assert config.robot.type == "so100" and config.robot.fps == 30
    assert config.robot.action_names == tuple(f"{joint}.pos" for joint in JOINTS)
    assert config.robot.state_units == ("deg",) * 5 + ("closed",)
    assert config.backbone.num_cameras == 1 and config.backbone.image_size == 128  # type: ignore[attr-defined]
    assert config.backbone.environment_state_dim == 0  # type: ignore[attr-defined]


def test_every_joint_is_normalised_and_the_gripper_stays(trained: RDVLAPolicy, arm: Path) -> None:
    values = torch.from_numpy(EpisodeDataset(arm, chunk_size=4).column("action"))
    normalized = trained.action_normalizer.normalize(values)
    assert normalized[:, :5].abs().max() < 1.2 and torch.equal(normalized[:, 5], values[:, 5])


def test_images_are_fitted_alike_in_training_and_on_the_robot(arm: Path, tmp_path: Path) -> None:
    for how in ("crop", "pad", "stretch"):
        config = config_for(arm, tmp_path / how, f"--policy.resize={how}", "--policy.image_size=32")
        trainer = Trainer(config, console=QUIET)
        frames = trainer.dataset.sample_index[[0, 7]]
        seen = trainer.source.batch(torch.from_numpy(frames)).features["images"]
        recorded = EpisodeDataset(arm, chunk_size=4)
        raw = Observation(recorded.images(frames), recorded.state(frames), recorded.instructions(frames))
        fitted = trainer.policy.config.fits(raw).images["front"]
        assert torch.equal(seen[:, 0], fitted) and seen.shape[2:] == (32, 32, 3)
        trainer.policy.predict(raw, stop=1)  # takes what the camera gives
        with pytest.raises(InputError, match=r"32x32.*trained on 64x48"):
            trainer.policy.predict(replace(raw, images={"front": fitted}), stop=1)


def test_one_nested_option_changes_that_option_alone() -> None:
    plain = load_config(TrainConfig, ["--dataset=d"])
    for words, changed in (
        (["--policy.head.mean_depth=16"], replace(plain.policy.head, mean_depth=16)),  # type: ignore[call-arg]
        (["--policy.backbone.slots=5"], replace(plain.policy.backbone, slots=5)),  # type: ignore[call-arg]
    ):
        found = load_config(TrainConfig, ["--dataset=d", *words])
        part = "head" if "head" in words[0] else "backbone"
        assert found == replace(plain, policy=replace(plain.policy, **{part: changed}))


def test_naming_a_type_chooses_the_component_with_its_own_defaults() -> None:
    found = load_config(TrainConfig, ["--dataset=d", "--policy.head.type=recurrent"])
    assert found.policy.head.hidden_dim == 896  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--policy.unscaled_actions=[1]", r"lift\.pos \(1\).*values reach 8\d"),
        ("--policy.unscaled_actions=[6]", r"dimension 6.*6 dimensions"),
        ("--policy.state_dim=4", r"policy\.state_dim is 4.*has 6"),
        ("--policy.head.action_dim=7", r"action_dim is 7.*has 6"),
        ("--policy.cameras=[frnt]", r"no camera 'frnt'.*Did you mean 'front'"),
        ("--policy.resize_cameras={wrist: crop}", r"resize_cameras names 'wrist'"),
        ("--policy.backbone.max_instruction_bytes=10", rf"'{TASK}' has 23 bytes.*max_instruction_bytes=23"),
    ],
)
def test_what_contradicts_the_dataset_is_refused_before_anything_is_written(
    arm: Path, tmp_path: Path, word: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(config_for(arm, tmp_path / "run", word), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_what_was_inferred_is_printed_before_training(arm: Path, tmp_path: Path) -> None:
    console = Console(record=True, width=200, quiet=False)
    Trainer(config_for(arm, tmp_path / "run"), console=console)
    shown = console.export_text()
    for text in (
        "4 episodes, 80 frames at 30 Hz, 1 instruction, robot so100",
        "64x48 -> 128x128, pad",
        "6 numbers by quantiles (pan.pos, ",
        "not scaled: gripper.pos (5)",
        " parameters (head: ",
    ):
        assert text in shown, shown


def test_a_run_directory_is_named_after_the_dataset(
    arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(config_for(arm, tmp_path), output_dir="")
    result = train(config, console=QUIET)
    assert result.policy_dir == Path("runs/arm/policy") and (tmp_path / "runs/arm/policy").is_dir()


def test_a_policy_is_not_built_from_an_open_configuration() -> None:
    with pytest.raises(ConfigError, match=r"policy\.cameras is open"):
        RDVLAPolicy(PolicyConfig(), {})


def test_a_head_starts_from_a_perception_run_without_repeating_its_options(
    dataset: Path, tmp_path: Path
) -> None:
    first = config_for(dataset, tmp_path / "first", "--objective=perception", "--policy.backbone.slots=6")
    backbone = train(first, console=QUIET)
    words = ("--policy.backbone.slots=6", f"--init_from={backbone.policy_dir}", "--freeze_backbone=true")
    trainer = Trainer(config_for(dataset, tmp_path / "second", *words), console=QUIET)
    assert trainer.policy.config.backbone.environment_state_dim == 3  # type: ignore[attr-defined]


def test_a_head_does_not_go_on_with_another_robot(trained: RDVLAPolicy, arm: Path, tmp_path: Path) -> None:
    other = replace(trained.config.robot, action_names=tuple(reversed(trained.config.robot.action_names)))
    policy = RDVLAPolicy(replace(trained.config, robot=other), trained.statistics)
    policy.save_pretrained(tmp_path / "other")
    words = (f"--init_from={tmp_path / 'other'}", "--init_parts=[backbone, head]")
    with pytest.raises(
        ConfigError, match=r"action_names is .*gripper\.pos.*that of .*init_parts=\[backbone\]"
    ):
        Trainer(config_for(arm, tmp_path / "run", *words), console=QUIET)


@pytest.mark.filterwarnings("error")
def test_a_robot_without_proprioception_is_trained(tmp_path: Path) -> None:
    writer = DatasetWriter.create(
        tmp_path / "blind",
        fps=10,
        features={"action": {"dtype": "float32", "shape": (2,), "names": None}},
        cameras=("front",),
        image_size=32,
    )
    rng = np.random.default_rng(0)
    for number in range(3):
        action = rng.uniform(0, 512, (12, 2)).astype(np.float32)  # pixels, as of a pushed block
        images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        writer.add_episode(Episode({"action": action}, {"front": images}, TASK), number=number)
    result = train(config_for(writer.finalize(), tmp_path / "run"), console=QUIET)
    policy = RDVLAPolicy.from_pretrained(result.policy_dir or "")
    assert policy.config.state_dim == 0 and policy.config.image_size == 32
    actions = policy.predict(Observation({"front": images[0]}, np.zeros(0), TASK), stop=1).actions
    assert actions.shape == (8, 2)


def write_robot(
    root: Path, *, sizes: dict[str, tuple[int, int]], opening: float, environment: bool = False
) -> Path:
    """Three short episodes of a gripper that opens so far, with cameras of these sizes."""
    features: dict[str, object] = {
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "gripper_width"]}
    }
    if environment:
        features["privileged.environment_state"] = {"dtype": "float32", "shape": (3,), "names": None}
    writer = DatasetWriter.create(
        root,
        fps=10,
        features=features,
        cameras=tuple(sizes),
        image_size=sizes,  # type: ignore[arg-type]
    )
    rng = np.random.default_rng(0)
    for number in range(3):
        action = rng.uniform(-1, 1, (12, 2)).astype(np.float32)
        action[:, 1] = opening * (np.arange(12) % 2)
        images = {c: rng.integers(0, 256, (12, *hw, 3), dtype=np.uint8) for c, hw in sizes.items()}
        values = {"action": action}
        if environment:
            values["privileged.environment_state"] = rng.normal(size=(12, 3)).astype(np.float32)
        writer.add_episode(Episode(values, images, TASK), number=number)
    return writer.finalize()


@pytest.mark.parametrize(("opening", "unscaled"), [(1.0, (1,)), (0.04, ())])
def test_a_gripper_in_metres_is_scaled(tmp_path: Path, opening: float, unscaled: tuple[int, ...]) -> None:
    data = write_robot(tmp_path / "data", sizes={"front": (32, 32)}, opening=opening)
    trainer = Trainer(config_for(data, tmp_path / "run"), console=QUIET)
    assert trainer.config.policy.unscaled_actions == unscaled


def test_square_cameras_of_different_sizes_are_taken_at_any_size(tmp_path: Path) -> None:
    data = write_robot(tmp_path / "data", sizes={"front": (256, 256), "wrist": (128, 128)}, opening=1.0)
    trainer = Trainer(config_for(data, tmp_path / "run"), console=QUIET)
    images = {camera: np.zeros((256, 256, 3), dtype=np.uint8) for camera in ("front", "wrist")}
    trainer.policy.predict(Observation(images, np.zeros(0), TASK), stop=1)


def test_a_policy_goes_on_seeing_as_its_source_did(arm: Path, tmp_path: Path) -> None:
    first = train(config_for(arm, tmp_path / "first", "--policy.resize=crop"), console=QUIET)
    words = (f"--init_from={first.policy_dir}", "--init_parts=[backbone, head]")
    trainer = Trainer(config_for(arm, tmp_path / "second", *words), console=QUIET)
    assert trainer.config.policy.resize == "crop"
    with pytest.raises(ConfigError, match=r"policy\.resize is 'stretch', there 'crop'"):
        Trainer(config_for(arm, tmp_path / "third", *words, "--policy.resize=stretch"), console=QUIET)


def test_privileged_features_are_read_by_those_who_train_perception_alone(tmp_path: Path) -> None:
    data = write_robot(tmp_path / "data", sizes={"front": (32, 32)}, opening=1.0, environment=True)
    cloned = Trainer(config_for(data, tmp_path / "cloning"), console=QUIET)
    assert "privileged.environment_state" not in cloned.policy.statistics
    perceiving = Trainer(config_for(data, tmp_path / "seeing", "--objective=perception"), console=QUIET)
    assert "privileged.environment_state" in perceiving.policy.statistics
