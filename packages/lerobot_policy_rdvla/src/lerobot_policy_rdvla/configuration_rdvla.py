"""The options of an rdvla policy in LeRobot: those of `rdvla train`, under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from draccus.utils import ParsingError
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lerobot_policy_rdvla.choices import Backbone, Head, as_head
from rdvla.backbone import CompactConfig
from rdvla.errors import ConfigError
from rdvla.policy import PolicyConfig, compact_head
from rdvla.policy.config import NormalizationConfig, RobotConfig
from rdvla.policy.lerobot import POLICY_TYPE, feature_options
from rdvla.processing import Statistics
from rdvla.processing.fit import Resize
from rdvla.training.config import DepthConfig, OptimizerConfig, TrainConfig
from rdvla.training.schedule import WarmupCosine


@LRSchedulerConfig.register_subclass(POLICY_TYPE)
@dataclass
class WarmupCosineConfig(LRSchedulerConfig):
    """The learning rate of `rdvla train`: a linear rise, then a cosine down to a share of the peak."""

    num_warmup_steps: int | None = None  # updates of the rise; null: 100, or a tenth of a short run
    final_fraction: float = OptimizerConfig.final_fraction  # of the peak, at the last update

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """Return the schedule of a run of so many updates."""
        rise = OptimizerConfig(warmup_steps=self.num_warmup_steps).warmup(num_training_steps)
        return LambdaLR(optimizer, WarmupCosine(num_training_steps, rise, self.final_fraction).factor)


@PreTrainedConfig.register_subclass(POLICY_TYPE)
@dataclass
class RDVLAConfig(PreTrainedConfig):
    """Options of an rdvla policy; what is left open comes from the dataset.

    Attributes:
        statistics: of the dataset that a new policy is trained on, in the form of `stats.json`; a policy that
            was loaded has them in its preprocessor.

    Raises:
        ParsingError: options do not fit each other.
    """

    # LeRobot's names of two options below; both are null once they have set those.
    chunk_size: int | None = None  # head.chunk_size
    n_action_steps: int | None = None  # execution, as a fixed number of actions

    # The options of rdvla's PolicyConfig.
    backbone: Backbone = field(default_factory=CompactConfig)  # what reads images and instructions
    head: Head = field(default_factory=compact_head)  # what makes the actions
    cameras: tuple[str, ...] = ()  # in this order, without "observation.images."; none: the dataset's
    image_size: int = 0  # pixels, square, that images are fitted to; 0: chosen by the dataset's
    resize: Resize = "pad"  # how images are made square: crop the centre, pad with black, or stretch
    resize_cameras: dict[str, Resize] = field(default_factory=dict)  # cameras that differ, as {wrist: crop}
    camera_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # recorded (height, width)
    state_dim: int = 0  # S, proprioception; 0: as in the dataset
    unscaled_actions: tuple[int, ...] | None = None  # not normalised, in -1..1; null: grippers by name
    gripper_opening: tuple[int, ...] = ()  # those of them that the head gives as 1 open, 0 closed
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    clip_state: bool = False  # cut normalised proprioception to [-1, 1]
    stop: str = PolicyConfig.stop  # iterations, or a stop rule such as action_change:1e-3
    execution: str = PolicyConfig.execution  # actions before the next query: 5, binary:8,4,8, linear:8,2,6
    start: str = PolicyConfig.start  # of a query's iterations: noise, final, midpoint, shifted
    robot: RobotConfig = field(default_factory=RobotConfig)  # that the dataset describes

    instruction: str | None = None  # if an environment gives none; null: the only one it was trained on

    # Options of rdvla's training.
    depth: DepthConfig = field(default_factory=DepthConfig)  # iterations of an update
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # AdamW and its schedule
    proprio_noise: float = 0.0  # standard deviation in normalised units (-1..1), in training only
    freeze_backbone: bool = False  # train the head alone

    # Normalisation is a step of our own: see processor_rdvla.py.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(("VISUAL", "STATE", "ACTION"), NormalizationMode.IDENTITY)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.statistics: Statistics | None = None
        try:
            self._settle()
        except ConfigError as error:
            # LeRobot's command line hides what a ValueError says, and a ConfigError is one.
            raise ParsingError(str(error)) from error

    def _settle(self) -> None:
        self.head = as_head(self.head)
        if self.chunk_size is not None:
            self.head, self.chunk_size = replace(self.head, chunk_size=self.chunk_size), None
        if self.n_action_steps is not None:
            self.execution, self.n_action_steps = str(self.n_action_steps), None
        if self.proprio_noise < 0:
            raise ConfigError(f"policy.proprio_noise must not be negative, got {self.proprio_noise}")
        self.take(self.policy_config())  # which checks it

    def policy_config(self) -> PolicyConfig:
        """Return the policy's configuration as rdvla knows it.

        Raises:
            ConfigError: options do not fit each other.
        """
        return PolicyConfig(**{each.name: getattr(self, each.name) for each in fields(PolicyConfig)})

    def take(self, config: PolicyConfig) -> None:
        """Take over every option of a configuration of rdvla."""
        for each in fields(PolicyConfig):
            setattr(self, each.name, getattr(config, each.name))

    def take_from_dataset(self, root: Path) -> None:
        """Fill in what is left open as `rdvla train` does, from a dataset; check the rest against it.

        Args:
            root: folder of a dataset in LeRobot's format, whole.

        Raises:
            ConfigError: the dataset contradicts an option.
            DatasetError: the dataset is missing, damaged, or only a part of it is here.
        """
        from rdvla.data import EpisodeDataset  # needs LeRobot's extra `dataset`
        from rdvla.training.inference import complete
        from rdvla.training.setup import policy_statistics

        config = self.policy_config()
        # Numbers alone: LeRobot reads the images, and its older PyAV cannot check their files.
        dataset = EpisodeDataset(
            root, chunk_size=config.head.chunk_size, cameras=(), privileged=False, only_new_images=False
        )
        config = replace(config, cameras=config.cameras or tuple(dataset.recorded_cameras))
        config = complete(TrainConfig(dataset=str(root), policy=config), dataset, None).policy
        self.take(config)
        self.statistics = policy_statistics(config, dataset.statistics)
        # LeRobot lists every feature below "observation."; the policy reads the cameras and the state.
        options = feature_options(config)
        self.input_features = _features(options["input_features"])
        self.output_features = _features(options["output_features"])

    def validate_features(self) -> None:
        """Check that nothing is left open.

        Raises:
            ConfigError: it names the option.
        """
        self.policy_config().check_complete()

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return AdamW as `rdvla train` has it."""
        return AdamWConfig(
            lr=self.optimizer.learning_rate,
            betas=(self.optimizer.beta1, self.optimizer.beta2),
            eps=self.optimizer.epsilon,
            weight_decay=self.optimizer.weight_decay,
            grad_clip_norm=self.optimizer.clip_norm,
        )

    def get_scheduler_preset(self) -> WarmupCosineConfig:
        """Return the learning rate's schedule as `rdvla train` has it."""
        return WarmupCosineConfig(
            num_warmup_steps=self.optimizer.warmup_steps, final_fraction=self.optimizer.final_fraction
        )

    @property
    def observation_delta_indices(self) -> None:
        """A policy sees the present alone."""

    @property
    def action_delta_indices(self) -> list[int]:
        """The control steps of a chunk."""
        return list(range(self.head.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """Nothing is learned from rewards."""


def _features(options: Mapping[str, Any]) -> dict[str, PolicyFeature]:
    return {
        name: PolicyFeature(type=FeatureType(option["type"]), shape=tuple(option["shape"]))
        for name, option in options.items()
    }
