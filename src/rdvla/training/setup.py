"""What a run starts from: dataset, policy with initial weights, device and precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped, unused-ignore]

from rdvla.config import encode_config
from rdvla.data import EpisodeDataset
from rdvla.data.features import ENVIRONMENT_STATE, KEYPOINTS, current_name
from rdvla.errors import ConfigError
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.training.config import TrainConfig
from rdvla.training.run_directory import differences

KEPT_STATISTICS = ("action", "observation.state", ENVIRONMENT_STATE)


def open_dataset(config: TrainConfig) -> EpisodeDataset:
    """Open the dataset, or the datasets, and check that they fit the policy and the objective.

    Raises:
        ConfigError: the policy takes states, actions or images of another size than the dataset holds, or
            the loss needs something that the dataset does not have.
        DatasetError: the dataset is missing or damaged.
    """
    policy = config.policy
    dataset = EpisodeDataset(
        config.dataset,
        chunk_size=policy.head.chunk_size,
        cameras=policy.cameras,
        camera_names=config.data.cameras,
        image_size=policy.image_size if config.data.resize else None,
        sample_every=config.data.sample_every,
        action=config.data.action,
        state=config.data.state,
    )
    for name, wanted, found in (
        ("policy.state_dim", policy.state_dim, dataset.state_dim),
        ("policy.head.action_dim", policy.head.action_dim, dataset.action_dim),
    ):
        if wanted != found:
            raise ConfigError(
                f"{name} is {wanted}, but the dataset {dataset.name} has {found}; set {name}={found}."
            )
    if not config.data.resize:
        _check_image_sizes(dataset, policy.image_size)
    _check_targets(dataset, config)
    return dataset


def _check_image_sizes(dataset: EpisodeDataset, size: int) -> None:
    for camera in dataset.cameras:
        height, width = dataset.recorded_image_size(camera)
        if (height, width) != (size, size):
            raise ConfigError(
                f"The images of camera {camera!r} in {dataset.name} are {width}x{height}, policy.image_size "
                f"is {size}; set it to the images' size, or scale them with data.resize=true."
            )


def _check_targets(dataset: EpisodeDataset, config: TrainConfig) -> None:
    if not config.trains_perception:
        return
    for feature, wanted, instead in (
        (ENVIRONMENT_STATE, True, "objective=actions and loss.perception_weight=0"),
        (KEYPOINTS, config.loss.keypoint_weight > 0, "loss.keypoint_weight=0"),
    ):
        if wanted and feature not in dataset.statistics:
            raise ConfigError(
                f"The perception loss needs {feature}, which {dataset.name} does not have; "
                f"train with {instead}."
            )


def build_policy(config: TrainConfig, statistics: Mapping[str, Mapping[str, Any]]) -> RDVLAPolicy:
    """Build the policy; one kind of processor draws the same weights from the same seed.

    What the objective does not train is frozen: the backbone if `freeze_backbone` says so, the head if only
    perception is trained.

    Args:
        config: of the run.
        statistics: of the dataset. A head taken from `init_from` keeps its own instead, as its weights were
            trained in those units.

    Raises:
        ConfigError: `init_from` holds a policy whose backbone or head has another configuration.
    """
    source = RDVLAPolicy.from_pretrained(config.init_from) if config.init_from else None
    if source is not None and "head" in config.init_parts:
        statistics = {current_name(name): entry for name, entry in source.statistics.items()}
    torch.manual_seed(config.seed)
    policy = RDVLAPolicy(
        config.policy, {name: statistics[name] for name in KEPT_STATISTICS if name in statistics}
    )
    if source is not None:
        take_over = {"backbone": policy.take_over_backbone, "head": policy.take_over_head}
        for component in config.init_parts:
            _check_component(component, source.config, config)
            take_over[component](source)
    if config.freeze_backbone:
        policy.freeze_backbone()
    if config.objective == "perception":
        policy.freeze_head()
    return policy


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of a run's `device` and `mixed_precision`.

    Raises:
        ConfigError: the run was started in several processes.
    """
    # Accelerate keeps its device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    if accelerator.num_processes > 1:
        raise ConfigError("A run trains in one process; start it without a multi-process launcher.")
    return accelerator


def _check_component(component: str, source: PolicyConfig, config: TrainConfig) -> None:
    had, has = _describe(component, source), _describe(component, config.policy)
    differing = differences(had, has)
    if differing:
        shown = "; ".join(
            f"policy.{name} is {new!r}, there {old!r}" for name, (old, new) in differing.items()
        )
        raise ConfigError(
            f"init_from={config.init_from} cannot give its {component}: {shown}. Take over its values, or "
            f"leave {component} out of init_parts."
        )


def _describe(component: str, config: PolicyConfig) -> dict[str, Any]:
    encoded = encode_config(config)
    if component == "backbone":
        tuning = config.backbone.tuning_fields
        backbone = {name: value for name, value in encoded["backbone"].items() if name not in tuning}
        return {"backbone": backbone, "cameras": encoded["cameras"], "image_size": encoded["image_size"]}
    head = {name: value for name, value in encoded["head"].items() if name not in config.head.training_fields}
    units = ("state_dim", "unscaled_actions", "gripper_opening", "clip_state")
    return {"head": head, **{name: encoded[name] for name in units}}
