"""Everything that defines a policy except its weights and statistics. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

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
from rdvla.errors import ConfigError
from rdvla.heads import HeadConfig, RecurrentConfig


def compact_head() -> RecurrentConfig:
    """Return the head that goes with the compact backbone: a small core that has to iterate."""
    return RecurrentConfig(
        hidden_dim=64, num_heads=4, action_dim=4, context_dim=96, prelude=(), core=("late",), coda=()
    )


@dataclass(frozen=True)
class PolicyConfig:
    """Everything that defines a policy except its weights and statistics."""

    backbone: BackboneConfig = field(default_factory=CompactConfig)
    head: HeadConfig = field(default_factory=compact_head)
    cameras: tuple[str, ...] = ("front", "side", "wrist")  # in the order that the backbone was trained with
    image_size: int = 128  # pixels, square
    state_dim: int = 4  # S, proprioception
    unscaled_actions: tuple[int, ...] = (3,)  # action dimensions that are not normalised: the gripper
    gripper_opening: tuple[int, ...] = ()  # those of them that the head gives as 1 open, 0 closed (LIBERO)
    clip_state: bool = False  # cut normalised proprioception to [-1, 1], as published policies do
    stop: str = field(  # stop rule of predict() if none is given:
        default="action_change:0.001", metadata={"was": "depth", "more": stop_help()}
    )
    execution: str = field(  # how many actions select_action() runs before the next query:
        default="fixed:8", metadata={"more": execution_help()}
    )
    start: str = "noise"  # of select_action()'s queries: noise, or from the last: final, midpoint, shifted

    def __post_init__(self) -> None:
        # Programs may give rules as numbers or objects; files hold texts.
        object.__setattr__(self, "stop", stop_text(self.stop))
        object.__setattr__(self, "execution", execution_text(self.execution))
        object.__setattr__(self, "start", as_start(self.start).kind)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(f"policy.cameras must name at least one camera, each once, got {self.cameras}")
        for name in ("state_dim", "image_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"policy.{name} must be at least 1, got {getattr(self, name)}")
        strays = set(self.gripper_opening) - set(self.unscaled_actions)
        if strays:
            raise ConfigError(
                f"policy.gripper_opening names {sorted(strays)}, which must be among policy.unscaled_actions "
                f"{self.unscaled_actions}"
            )
        parse_stop(self.stop)
        check_fits(parse_execution(self.execution), chunk_size=self.head.chunk_size)
        self.backbone.check(cameras=len(self.cameras), image_size=self.image_size, levels=self.head.levels)
