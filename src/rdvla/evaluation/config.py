"""What to evaluate, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rdvla.errors import ConfigError
from rdvla.evaluation.setting import Setting
from rdvla.execution import parse_execution
from rdvla.head import FixedDepth, parse_rule
from rdvla.simulation.environment import FIRST_EVALUATION_SEED


def parse_setting(rule: str, execution: str) -> Setting:
    """Read a stop rule and an execution rule; raises `ConfigError` for what is neither."""
    parsed = parse_rule(rule)
    fixed = isinstance(parsed, FixedDepth)
    return Setting(
        rule=parsed.name if fixed else parsed.describe(),
        depth=parsed.max_depth if fixed else None,
        execution=parse_execution(execution).describe(),
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Closed-loop evaluation of one policy: tasks x stop rules x execution rules x seeds."""

    policy: str  # folder or hub id
    output: str  # run directory: config, episodes.jsonl, results.json, videos
    env: str = "metaworld"
    tasks: tuple[str, ...] = ("MT10",)  # task names or sets of them
    episodes: int = 25  # per task and setting
    seed: int = FIRST_EVALUATION_SEED  # episode i of every task and setting plays seed + i
    rules: tuple[str, ...] = ("1", "2", "4", "8", "12", "action_change:1e-3")
    execution: tuple[str, ...] = ("fixed:8",)  # how many actions of a chunk to run
    max_steps: int = 200  # an episode without success ends here
    workers: int = 2  # environment processes
    threads: int = 1  # torch threads of the policy; the environments need the other cores
    videos: int = 1  # per task and setting, of its first episodes
    label: str = ""  # the policy's name in tables; its folder's name when empty

    def __post_init__(self) -> None:
        for name in ("episodes", "max_steps", "workers", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.videos < 0:
            raise ConfigError(f"videos must not be negative, got {self.videos}")
        if self.seed < FIRST_EVALUATION_SEED:
            raise ConfigError(
                f"seed must be at least {FIRST_EVALUATION_SEED}, got {self.seed}: "
                "lower seeds belong to demonstrations, which a policy must not be tested on"
            )
        for name in ("tasks", "rules", "execution"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name at least one")
        if len(set(self.settings)) < len(self.settings):
            raise ConfigError(f"a setting is named twice in rules {self.rules} x execution {self.execution}")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every stop rule with every execution rule."""
        return tuple(parse_setting(rule, execution) for execution in self.execution for rule in self.rules)

    @property
    def policy_label(self) -> str:
        """The policy's name in tables."""
        return self.label or Path(self.policy).name
