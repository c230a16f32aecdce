"""Everything that defines a policy except its weights and statistics. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rdvla.backbone import BackboneConfig, CompactConfig
from rdvla.control import (
    as_start,
    check_fits,
    execution_help,
    execution_text,
    parse_execution,
    parse_stop,
    stop_help,
    stop_text,
)
from rdvla.errors import ConfigError, nearest
from rdvla.heads import HeadConfig, RecurrentConfig
from rdvla.processing.fit import CameraFits, ImageFit, Resize

Scaling = Literal["quantiles", "min_max", "mean_std"]


def compact_head() -> RecurrentConfig:
    """Return the head that goes with the compact backbone: a small core that has to iterate."""
    return RecurrentConfig(
        hidden_dim=64, num_heads=4, action_dim=0, context_dim=96, prelude=(), core=("late",), coda=()
    )


@dataclass(frozen=True)
class NormalizationConfig:
    """What is mapped to -1 and 1, dimension by dimension; see `rdvla.processing.normalization.bounds`."""

    action: Scaling = (
        "quantiles"  # 1st and 99th percentile (paper), smallest and largest value, or mean -+ std
    )
    state: Scaling = "quantiles"  # the same for proprioception


@dataclass(frozen=True)
class RobotConfig:
    """The robot whose demonstrations a policy was trained on, as their dataset describes it."""

    type: str | None = None  # such as "so100"; null: not known
    fps: float | None = None  # control frequency in Hz
    action_names: tuple[str, ...] = ()  # of the action's dimensions, in order; none: not known
    action_units: tuple[str, ...] = ()
    state_names: tuple[str, ...] = ()  # of the proprioception's dimensions, in order
    state_units: tuple[str, ...] = ()


@dataclass(frozen=True)
class PolicyConfig:
    """Everything that defines a policy except its weights and statistics.

    Training takes what is left open (cameras, sizes, grippers, the robot) from the dataset.
    """

    backbone: BackboneConfig = field(default_factory=CompactConfig)
    head: HeadConfig = field(default_factory=compact_head)
    cameras: tuple[str, ...] = ()  # in the order that the backbone was trained with; none: the dataset's
    image_size: int = 0  # pixels, square, that images are fitted to; 0: chosen by the dataset's
    resize: Resize = "pad"  # how images are made square: crop the centre, pad with black, or stretch
    resize_cameras: dict[str, Resize] = field(default_factory=dict)  # cameras that differ, as {wrist: crop}
    camera_sizes: dict[str, tuple[int, int]] = field(  # recorded (height, width) in pixels, from the dataset;
        default_factory=dict
    )  # a camera without an entry gives images of image_size
    state_dim: int = 0  # S, proprioception; in training 0: as in the dataset
    unscaled_actions: tuple[int, ...] | None = None  # not normalised, in -1..1; null: grippers by name
    gripper_opening: tuple[int, ...] = ()  # those of them that the head gives as 1 open, 0 closed (LIBERO)
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    clip_state: bool = False  # cut normalised proprioception to [-1, 1], as published policies do
    stop: str = field(  # stop rule of predict() if none is given:
        default="action_change:0.001", metadata={"was": "depth", "more": stop_help()}
    )
    execution: str = field(  # how many actions select_action() runs before the next query:
        default="fixed:8", metadata={"more": execution_help()}
    )
    start: str = "noise"  # of select_action()'s queries: noise, or from the last: final, midpoint, shifted
    robot: RobotConfig = field(default_factory=RobotConfig)

    def __post_init__(self) -> None:
        # Programs may give rules as numbers or objects; files hold texts.
        object.__setattr__(self, "stop", stop_text(self.stop))
        object.__setattr__(self, "execution", execution_text(self.execution))
        object.__setattr__(self, "start", as_start(self.start).kind)
        if len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"policy.cameras must name its cameras, each once, got {self.cameras}")
        for name in ("state_dim", "image_size"):
            if getattr(self, name) < 0:
                raise ConfigError(f"policy.{name} must not be negative, got {getattr(self, name)}")
        self._check_cameras()
        strays = set(self.gripper_opening) - set(self.kept_actions)
        if strays:
            raise ConfigError(
                f"policy.gripper_opening names {sorted(strays)}, which must be among policy.unscaled_actions "
                f"{self.kept_actions}"
            )
        parse_stop(self.stop)
        check_fits(parse_execution(self.execution), chunk_size=self.head.chunk_size)
        self.backbone.check(cameras=len(self.cameras), image_size=self.image_size, levels=self.head.levels)

    @property
    def kept_actions(self) -> tuple[int, ...]:
        """The action dimensions that are not normalised; none if that is left open."""
        return self.unscaled_actions or ()

    def check_complete(self) -> None:
        """Check that nothing is left open which a policy needs.

        Raises:
            ConfigError: it names the option.
        """
        for name, value in (
            ("cameras", self.cameras),
            ("image_size", self.image_size),
            ("head.action_dim", self.head.action_dim),
        ):
            if not value:
                raise ConfigError(f"policy.{name} is open: set it, or train, where it comes from the dataset")

    @property
    def fits(self) -> CameraFits:
        """What makes the cameras' images fit, the same in training and on the robot."""
        ways = {camera: self.resize_cameras.get(camera, self.resize) for camera in self.cameras}
        return CameraFits(
            fits={camera: ImageFit(self.image_size, how) for camera, how in ways.items()},
            sizes=self.camera_sizes,
        )

    def _check_cameras(self) -> None:
        for name in ("resize_cameras", "camera_sizes"):
            for camera in getattr(self, name) if self.cameras else ():
                if camera not in self.cameras:
                    raise ConfigError(
                        f"policy.{name} names {camera!r}, policy.cameras are {list(self.cameras)}."
                        f"{nearest(camera, self.cameras)}"
                    )
