"""What happens to observations before a policy sees them, and to its actions: as everywhere in rdvla."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PipelineFeatureType, PolicyFeature
from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStep,
    ProcessorStepRegistry,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
    policy_action_to_transition,
    transition_to_policy_action,
)
from lerobot.processor.pipeline import TransitionKey
from torch import Tensor

from lerobot_policy_rdvla.configuration_rdvla import RDVLAConfig
from rdvla.errors import ConfigError, InputError, nearest
from rdvla.policy.lerobot import (
    IMAGES,
    NORMALIZER,
    POSTPROCESSOR,
    PREPROCESSOR,
    STATE,
    UNNORMALIZER,
    image_options,
    pack_statistics,
    unit_options,
    unpack_statistics,
)
from rdvla.processing import Normalizer, Statistics, policy_normalizers
from rdvla.processing.cameras import camera_key
from rdvla.processing.fit import CameraFits, ImageFit
from rdvla.types import Observation

Features = dict[PipelineFeatureType, dict[str, PolicyFeature]]


@ProcessorStepRegistry.register(IMAGES)
@dataclass
class RDVLAImages(ProcessorStep):
    """Makes images square: float (B, 3, H, W) in 0..1, or uint8, become uint8 (B, 3, size, size)."""

    fits: Mapping[str, Sequence[Any]]  # camera -> (size in pixels, how)
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)  # camera -> recorded (height, width)

    def __post_init__(self) -> None:
        self._fits = CameraFits(
            fits={camera: ImageFit(size, how) for camera, (size, how) in self.fits.items()},
            sizes={camera: (height, width) for camera, (height, width) in self.sizes.items()},
        )

    def __call__(self, transition: Any) -> Any:
        """Fit the images of the policy's cameras, and leave out the others.

        Raises:
            InputError: a camera is missing, or gives images of another shape than in training.
        """
        observation = dict(transition[TransitionKey.OBSERVATION] or {})
        shown = {name: value for name, value in observation.items() if name.startswith("observation.image")}
        missing = [camera for camera in self.fits if camera_key(camera) not in shown]
        if missing:
            key = camera_key(missing[0])
            raise InputError(
                f"the observation lacks {key!r}, it has {sorted(shown)}: name it by --rename_map."
                f"{nearest(key, shown)}"
            )
        images = {camera: _grey_levels(shown[camera_key(camera)]) for camera in self.fits}
        count = len(next(iter(images.values())))
        fitted = self._fits(Observation(images, torch.zeros(count, 0), [""] * count)).images
        kept = {name: value for name, value in observation.items() if name not in shown}
        pictures = {camera_key(camera): image.movedim(-1, -3) for camera, image in fitted.items()}
        return {**transition, TransitionKey.OBSERVATION: kept | pictures}

    def get_config(self) -> dict[str, Any]:
        """Return the options that are saved."""
        return {"fits": dict(self.fits), "sizes": dict(self.sizes)}

    def transform_features(self, features: Features) -> Features:
        """Say that images are square."""
        squares = {camera_key(camera): (3, fit.size, fit.size) for camera, fit in self._fits.fits.items()}
        return {
            kind: {
                name: PolicyFeature(type=FeatureType.VISUAL, shape=squares[name]) if name in squares else each
                for name, each in group.items()
            }
            for kind, group in features.items()
        }


@dataclass
class _Units(ProcessorStep):
    """The units of a policy: their statistics are its state."""

    action_dim: int
    state_dim: int
    unscaled_actions: Sequence[int] = ()
    gripper_opening: Sequence[int] = ()
    clip_state: bool = False
    statistics: Statistics | None = None

    def __post_init__(self) -> None:
        if self.statistics is not None:
            self._set(self.statistics)

    @property
    def action(self) -> Normalizer:
        """The normaliser of actions.

        Raises:
            ConfigError: the step has no statistics.
        """
        return self._known()[0]

    @property
    def state(self) -> Normalizer:
        """The normaliser of proprioception.

        Raises:
            ConfigError: the step has no statistics.
        """
        return self._known()[1]

    def get_config(self) -> dict[str, Any]:
        """Return the options that are saved next to the statistics."""
        return {
            "action_dim": self.action_dim,
            "state_dim": self.state_dim,
            "unscaled_actions": list(self.unscaled_actions),
            "gripper_opening": list(self.gripper_opening),
            "clip_state": self.clip_state,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return the statistics as `<feature>/<name>` -> float64."""
        return pack_statistics(self.statistics or {})

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over statistics."""
        self._set(unpack_statistics(state))

    def transform_features(self, features: Features) -> Features:
        """Say that shapes stay as they are."""
        return features

    def _set(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self._normalizers = policy_normalizers(statistics, **self.get_config())

    def _known(self) -> tuple[Normalizer, Normalizer]:
        if self.statistics is None:
            raise ConfigError("there are no statistics to normalise with: train the policy, or load it")
        return self._normalizers


@ProcessorStepRegistry.register(NORMALIZER)
@dataclass
class RDVLANormalizer(_Units):
    """Normalises proprioception (B, S), and actions (B, K, A) if there are any."""

    def __call__(self, transition: Any) -> Any:
        """Return the transition in normalised units."""
        observation = dict(transition[TransitionKey.OBSERVATION] or {})
        if self.state_dim:
            if STATE not in observation:
                raise InputError(f"the observation lacks {STATE!r}, which the policy was trained with")
            observation[STATE] = self.state.normalize(observation[STATE].float())
        action = transition[TransitionKey.ACTION]
        normalized = None if action is None else self.action.normalize(action.float())
        return {**transition, TransitionKey.OBSERVATION: observation, TransitionKey.ACTION: normalized}


@ProcessorStepRegistry.register(UNNORMALIZER)
@dataclass
class RDVLAUnnormalizer(_Units):
    """Brings actions back to the robot's units."""

    def __call__(self, transition: Any) -> Any:
        """Return the transition in the robot's units."""
        action = self.action.unnormalize(transition[TransitionKey.ACTION])
        return {**transition, TransitionKey.ACTION: action}


def make_rdvla_pre_post_processors(
    config: RDVLAConfig, dataset_stats: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[PolicyProcessorPipeline[Any, Any], PolicyProcessorPipeline[Any, Any]]:
    """Return what comes before a new policy and after it; a saved policy brings its own.

    Args:
        config: of the policy, with nothing left open.
        dataset_stats: LeRobot's statistics, which are used only if the policy has taken none from the dataset
            itself: their quantiles may be averages over episodes.
    """
    from rdvla.training.setup import policy_statistics

    policy, statistics = config.policy_config(), config.statistics
    if statistics is None and dataset_stats is not None:
        statistics = policy_statistics(policy, _plain(dataset_stats))
    units: dict[str, Any] = {**unit_options(policy), "statistics": statistics}
    before = [
        RenameObservationsProcessorStep(rename_map={}),
        AddBatchDimensionProcessorStep(),
        RDVLAImages(**image_options(policy)),
        RDVLANormalizer(**units),
        # Does nothing, but LeRobot's commands name it when they load a policy to train it further.
        NormalizerProcessorStep(features={}, norm_map={}),
        DeviceProcessorStep(device=config.device or "cpu"),
    ]
    after = [
        RDVLAUnnormalizer(**units),
        UnnormalizerProcessorStep(features={}, norm_map={}),
        DeviceProcessorStep(device="cpu"),
    ]
    return (
        PolicyProcessorPipeline(steps=before, name=PREPROCESSOR),
        PolicyProcessorPipeline(
            steps=after,
            name=POSTPROCESSOR,
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )


def _grey_levels(images: Tensor) -> Tensor:
    return images if images.dtype == torch.uint8 else (images * 255).round().clamp(0, 255).to(torch.uint8)


def _plain(statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    return {
        feature: {name: torch.as_tensor(values).flatten().tolist() for name, values in entry.items()}
        for feature, entry in statistics.items()
    }
