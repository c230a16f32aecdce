"""What a run takes from its dataset: cameras, image sizes, dimensions, grippers, and the robot.

Everything that the configuration leaves open is filled in here, before anything is decoded or built. What
comes out goes into the run's config.yaml and into the policy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from rdvla.data import EpisodeDataset
from rdvla.data.features import ACTION, ENVIRONMENT_STATE, STATE
from rdvla.errors import ConfigError
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.policy.config import RobotConfig
from rdvla.policy.trainable import count_parameters
from rdvla.training.config import TrainConfig
from rdvla.training.sampling import complete_data, describe_sampling

GRIPPER = "gripper"  # in the name of an action's dimension
LEAST_RANGE = 0.5  # of a gripper that is left unscaled: an opening in metres would hardly be learned
UNIT_ERROR = 1e-6  # by which a value may leave -1..1: commands are stored in float32


def named(config: TrainConfig) -> TrainConfig:
    """Return the configuration with a run directory: `runs/` and the dataset's name, if none is given."""
    if config.output_dir:
        return config
    name = Path(config.dataset.split(",")[0].partition("@")[0]).name
    return replace(config, output_dir=str(Path("runs") / name))


def complete(config: TrainConfig, dataset: EpisodeDataset, source: PolicyConfig | None) -> TrainConfig:
    """Return the configuration with nothing left open.

    Args:
        config: of the run.
        dataset: opened with the configuration's cameras, or all of them if it names none.
        source: configuration of the policy that the run starts from; None: from nothing.

    Raises:
        ConfigError: the dataset contradicts the configuration; the message names the option and the values.
    """
    policy = config.policy
    if source is not None and "backbone" in config.init_parts:
        policy = _like_source(policy, source)
    head_source = source if "head" in config.init_parts else None
    if head_source is not None:  # its weights were trained in these units
        policy = replace(policy, normalization=head_source.normalization)
    cameras = policy.cameras or tuple(dataset.cameras)
    if not cameras:
        raise ConfigError(f"{dataset.name} has no cameras, and a policy needs at least one")
    recorded = {camera: dataset.recorded_image_size(camera) for camera in cameras}
    size = policy.image_size or policy.backbone.choose_image_size(list(recorded.values()))
    environment = dataset.features.get(ENVIRONMENT_STATE) if config.trains_perception else None
    policy = replace(
        policy,
        backbone=policy.backbone.fitted(
            cameras=len(cameras),
            image_size=size,
            environment_state_dim=0 if environment is None else int(environment["shape"][0]),
        ),
        head=replace(policy.head, action_dim=policy.head.action_dim or dataset.action_dim),
        cameras=cameras,
        image_size=size,
        camera_sizes=policy.camera_sizes or (recorded if set(recorded.values()) != {(size, size)} else {}),
        state_dim=policy.state_dim or dataset.state_dim,
        robot=policy.robot if policy.robot != RobotConfig() else robot_of(dataset),
    )
    _check_sizes(policy, dataset)
    if head_source is not None:
        check_robot(head_source.robot, policy.robot, of=dataset.name)
    policy = replace(policy, unscaled_actions=_unscaled(policy, dataset))
    return replace(config, policy=policy, data=complete_data(config.data, dataset))


def describe(config: TrainConfig, dataset: EpisodeDataset) -> list[tuple[str, str]]:
    """Return what a run will train on and with, as pairs of a title and a text, for people."""
    policy, robot = config.policy, config.policy.robot
    kind = f", robot {robot.type}" if robot.type else ""
    lines = [
        (
            "dataset",
            f"{dataset.num_episodes:,} episodes, {dataset.num_frames:,} frames at {dataset.fps:g} Hz, "
            f"{len(dataset.tasks)} instruction{'s' if len(dataset.tasks) != 1 else ''}{kind}",
        )
    ]
    lines += describe_sampling(config, dataset)
    lines += [(f"camera {camera}", text) for camera, text in policy.fits.in_words().items()]
    scaling = policy.normalization
    if policy.state_dim:
        lines.append(("state", f"{policy.state_dim} numbers by {scaling.state}{_shown(robot.state_names)}"))
    else:
        lines.append(("state", "none"))
    kept = [_dimension(policy, dimension) for dimension in policy.kept_actions]
    unscaled = f"; not scaled: {', '.join(kept)}" if kept else ""
    lines.append(
        (
            "action",
            f"{policy.head.action_dim} numbers by {scaling.action}, chunks of {policy.head.chunk_size}"
            f"{_shown(robot.action_names)}{unscaled}",
        )
    )
    return lines


def describe_size(policy: RDVLAPolicy) -> str:
    """Return the numbers of a policy's parameters, for people."""
    sizes, head = count_parameters(policy), count_parameters(policy.head)
    frozen = f", {sizes['frozen']:,} of them frozen" if sizes["frozen"] else ""
    return f"{sizes['all']:,} parameters (head: {head['all']:,}){frozen}"


def _like_source(policy: PolicyConfig, source: PolicyConfig) -> PolicyConfig:
    """Take over from the policy that gives its backbone what that backbone was trained with."""
    read_out = getattr(source.backbone, "environment_state_dim", None)
    open_ways = policy.resize == PolicyConfig.resize and not policy.resize_cameras
    return replace(
        policy,
        backbone=policy.backbone.fitted(
            cameras=len(source.cameras), image_size=source.image_size, environment_state_dim=read_out or 0
        ),
        cameras=policy.cameras or source.cameras,
        image_size=policy.image_size or source.image_size,
        resize=source.resize if open_ways else policy.resize,
        resize_cameras=source.resize_cameras if open_ways else policy.resize_cameras,
    )


def _check_sizes(policy: PolicyConfig, dataset: EpisodeDataset) -> None:
    for name, wanted, found in (
        ("policy.state_dim", policy.state_dim, dataset.state_dim),
        ("policy.head.action_dim", policy.head.action_dim, dataset.action_dim),
    ):
        if wanted != found:
            raise ConfigError(
                f"{name} is {wanted}, but the dataset {dataset.name} has {found}; set {name}={found}."
            )


def check_robot(policy: RobotConfig, robot: RobotConfig, *, of: str) -> None:
    """Check that a policy meets the robot that it was trained on, as far as both are described.

    Args:
        policy: the robot of the policy's training.
        robot: the one that a dataset describes.
        of: the dataset's name.

    Raises:
        ConfigError: it is another one; the message says in what.
    """
    for field in fields(RobotConfig):
        had, has = getattr(policy, field.name), getattr(robot, field.name)
        if field.name != "fps" and had and has and had != has:
            raise ConfigError(
                f"the policy was trained on a robot whose {field.name} is {had}, that of {of} is {has}: "
                "train a new head for it (init_parts=[backbone]), or correct the dataset's description."
            )


def _unscaled(policy: PolicyConfig, dataset: EpisodeDataset) -> tuple[int, ...]:
    """Return the action dimensions that are not normalised: those asked for, or grippers in -1..1."""
    entry = dataset.statistics[ACTION]
    reach = [max(abs(low), abs(high)) for low, high in zip(entry["min"], entry["max"], strict=True)]
    if policy.unscaled_actions is None:
        names = policy.robot.action_names
        return tuple(
            dimension
            for dimension, name in enumerate(names)
            if GRIPPER in name.lower()
            and reach[dimension] <= 1 + UNIT_ERROR
            and entry["max"][dimension] - entry["min"][dimension] >= LEAST_RANGE
        )
    for dimension in policy.unscaled_actions:
        if not 0 <= dimension < len(reach):
            raise ConfigError(
                f"policy.unscaled_actions names dimension {dimension}, but an action has {len(reach)} "
                f"dimensions (0 to {len(reach) - 1})."
            )
        if reach[dimension] > 1 + UNIT_ERROR:
            raise ConfigError(
                f"policy.unscaled_actions names {_dimension(policy, dimension)}, whose values reach "
                f"{reach[dimension]:g}: only dimensions within -1..1 can stay as they are. Leave it out."
            )
    return policy.unscaled_actions


def robot_of(dataset: EpisodeDataset) -> RobotConfig:
    """Return what a dataset says of its robot."""
    return RobotConfig(
        type=dataset.robot_type,
        fps=dataset.fps,
        action_names=tuple(dataset.names(ACTION) or ()),
        action_units=tuple(dataset.units(ACTION) or ()),
        state_names=tuple((dataset.state_dim and dataset.names(STATE)) or ()),
        state_units=tuple((dataset.state_dim and dataset.units(STATE)) or ()),
    )


def _dimension(policy: PolicyConfig, dimension: int) -> str:
    names = policy.robot.action_names
    return f"{names[dimension]} ({dimension})" if dimension < len(names) else f"dimension {dimension}"


def _shown(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if 0 < len(names) <= 8 else ""
