"""What a run starts from: dataset, policy with initial weights, device and precision."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped, unused-ignore]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped, unused-ignore]
from accelerate.utils import (  # type: ignore[import-untyped, unused-ignore]
    DistributedDataParallelKwargs,
)

from rdvla.config import encode_config
from rdvla.data import EpisodeDataset
from rdvla.data.features import ACTION, ENVIRONMENT_STATE, KEYPOINTS, STATE, current_name
from rdvla.errors import ConfigError
from rdvla.heads import Loss
from rdvla.policy import PolicyConfig, RDVLAPolicy
from rdvla.processing import Statistics
from rdvla.processing.normalization import bounds
from rdvla.training.config import TrainConfig
from rdvla.training.inference import complete
from rdvla.training.rank_process import check_started, is_rank
from rdvla.training.run_directory import differences
from rdvla.training.sampling import streaming_of

PRECISION = "ACCELERATE_MIXED_PRECISION"
OFF = ("no", "false", "0")
SHARE_OUT = "share weights out with compute.strategy=fsdp"
# What `accelerate launch` may ask for, and Accelerate would do next to the run's options, or leave out ->
# values that ask for nothing, and the run's own way.
LAUNCHER_OPTIONS = {
    "ACCELERATE_USE_FSDP": (OFF, SHARE_OUT),
    "ACCELERATE_USE_DEEPSPEED": (OFF, SHARE_OUT),
    "ACCELERATE_USE_MEGATRON_LM": (OFF, SHARE_OUT),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (OFF, SHARE_OUT),
    # Every gradient would be divided by it.
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (("1",), "set compute.accumulation_steps"),
    "ACCELERATE_DYNAMO_BACKEND": (OFF, "set compute.compile=true"),
    PRECISION: (OFF, "set mixed_precision, which is bf16 or no"),
}
KEPT_STATISTICS = (ACTION, STATE, ENVIRONMENT_STATE)


def load_source(config: TrainConfig) -> RDVLAPolicy | None:
    """Load the policy that a run starts from; None: it starts from nothing."""
    return RDVLAPolicy.from_pretrained(config.init_from) if config.init_from else None


def open_dataset(config: TrainConfig, source: RDVLAPolicy | None) -> tuple[EpisodeDataset, TrainConfig]:
    """Open the dataset, or the datasets, and take from there what the configuration leaves open.

    Args:
        config: of the run.
        source: the policy that the run starts from.

    Returns:
        The dataset, with images as the policy takes them, and the configuration with nothing left open.

    Raises:
        ConfigError: the configuration contradicts the dataset, or the loss needs something that it lacks.
        DatasetError: the dataset is missing or damaged.
    """
    cameras = config.policy.cameras
    if source is not None and "backbone" in config.init_parts:
        cameras = cameras or source.config.cameras
    dataset = EpisodeDataset(
        config.dataset,
        chunk_size=config.policy.head.chunk_size,
        cameras=cameras or None,
        camera_names=config.data.cameras,
        sample_every=config.data.sample_every,
        action=config.data.action,
        state=config.data.state,
        privileged=config.trains_perception,
        streaming=streaming_of(config.data),
    )
    _check_targets(dataset, config)
    config = complete(config, dataset, None if source is None else source.config)
    return dataset.fitted(config.policy.fits.fits), config


def _check_targets(dataset: EpisodeDataset, config: TrainConfig) -> None:
    if not config.trains_perception:
        return
    for feature, wanted, instead in (
        (ENVIRONMENT_STATE, True, "objective=actions and loss.perception_weight=0"),
        (KEYPOINTS, config.loss.keypoint_weight > 0, "loss.keypoint_weight=0"),
    ):
        if wanted and feature not in dataset.features:
            raise ConfigError(
                f"The perception loss needs {feature}, which {dataset.name} does not have; "
                f"train with {instead}."
            )


def build_policy(
    config: TrainConfig,
    statistics: Mapping[str, Mapping[str, Any]],
    source: RDVLAPolicy | None = None,
    *,
    trained_in: Statistics | None = None,
) -> RDVLAPolicy:
    """Build the policy; one kind of processor draws the same weights from the same seed.

    What the objective does not train is frozen: the backbone if `freeze_backbone` says so, the head if only
    perception is trained.

    Args:
        config: of the run, with nothing left open.
        statistics: of the dataset. A head taken from `source` keeps its own instead, as its weights were
            trained in those units.
        source: the policy that the run starts from.
        trained_in: the statistics of a run that goes on, which its weights were trained in.

    Raises:
        ConfigError: the source's backbone or head has another configuration, or a statistic is not finite.
    """
    if source is not None and "backbone" in config.init_parts and ENVIRONMENT_STATE not in statistics:
        theirs = {current_name(name): entry for name, entry in source.statistics.items()}
        read_out = {name: theirs[name] for name in (ENVIRONMENT_STATE,) if name in theirs}
        statistics = {**statistics, **read_out}  # what the source's backbone reads off images is in its units
    kept: Statistics = policy_statistics(config.policy, statistics)
    known = source.statistics if source is not None and "head" in config.init_parts else None
    known = known if trained_in is None else trained_in
    if known is not None:
        kept = {current_name(name): entry for name, entry in known.items()}
    torch.manual_seed(config.seed)
    policy = RDVLAPolicy(config.policy, kept)
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


def policy_statistics(
    policy: PolicyConfig, statistics: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what a policy keeps of a dataset's statistics, with the bounds of its normalisation.

    Raises:
        ConfigError: a number is NaN or infinite, which the policy's file could not hold.
    """
    kept = {name: dict(statistics[name]) for name in KEPT_STATISTICS if name in statistics}
    for feature, scaling in ((ACTION, policy.normalization.action), (STATE, policy.normalization.state)):
        if feature in kept:
            low, high = bounds(kept[feature], scaling)
            kept[feature] |= {"low": low, "high": high}
    for feature, entry in kept.items():
        for name, values in entry.items():
            if not all(math.isfinite(value) for value in values):
                raise ConfigError(
                    f"{name!r} of {feature!r} is not finite: {list(values)}. The dataset holds values too "
                    "large to compute with; mend them, or leave the feature out."
                )
    return kept


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Return the accelerator of a run's `device` and `mixed_precision`, in touch with the run's processes.

    Raises:
        ConfigError: the run is to have several processes, but was started in one; or a launcher asks for
            something that a run does in its own way.
    """
    check_started(config)
    _check_launcher(config)
    # Accelerate keeps its device and precision for the whole process; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    in_processors = config.device == "cpu" or (is_rank() and not torch.accelerator.is_available())
    # At some depths a parameter has no gradient.
    exchange = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(
        cpu=in_processors, mixed_precision=config.mixed_precision, kwargs_handlers=[exchange]
    )
    config.compute.check_batch_size(config.batch_size, processes=accelerator.num_processes)
    return accelerator


def _check_launcher(config: TrainConfig) -> None:
    for variable, (harmless, instead) in LAUNCHER_OPTIONS.items():
        value = os.environ.get(variable, "").lower()
        if value in ("", *harmless) or (variable == PRECISION and value == config.mixed_precision):
            continue
        raise ConfigError(
            f"{variable}={value} is set, by `accelerate launch` or its configuration file. Leave it out, and "
            f"{instead}."
        )


def wrapped(policy: RDVLAPolicy, accelerator: Accelerator) -> Callable[..., Loss]:
    """Return what computes the loss of a policy so that all processes get the sum of their gradients.

    The weights of rank 0 become those of all.
    """
    if accelerator.num_processes == 1:
        return policy
    model: Callable[..., Loss] = accelerator.prepare_model(policy)
    return model


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
        seen = ("cameras", "image_size", "resize", "resize_cameras")
        return {"backbone": backbone, **{name: encoded[name] for name in seen}}
    head = {name: value for name, value in encoded["head"].items() if name not in config.head.training_fields}
    units = ("state_dim", "unscaled_actions", "gripper_opening", "clip_state", "normalization")
    return {"head": head, **{name: encoded[name] for name in units}}
