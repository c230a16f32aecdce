"""Which tasks an evaluation plays in which environments, and how long an episode may take there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdvla import simulation
from rdvla.errors import ConfigError, nearest
from rdvla.evaluation.config import EvaluationConfig
from rdvla.simulation.environment import SimulatedTask
from rdvla.simulation.registry import FIRST_EVALUATION_SEED
from rdvla.simulation.rendering import Rendering


@dataclass(frozen=True)
class Suite:
    """What an evaluation plays in one environment."""

    env: str
    tasks: tuple[str, ...]
    max_steps: int  # an episode without success ends here


def resolve_suites(config: EvaluationConfig) -> tuple[Suite, ...]:
    """Find the tasks and the step limit of every environment that a configuration names.

    Raises:
        ConfigError: an environment, a task or a step limit is unknown, an environment is left without tasks,
            or more episodes are asked for than it has official initial states.
    """
    tasks = _named_tasks(config) if config.tasks else _default_tasks(config)
    for env in config.envs:
        _check_states(env, config)
    return tuple(
        Suite(
            env=env,
            tasks=tuple(simulation.resolve_tasks(env, names)),
            max_steps=config.max_steps or simulation.step_limit(env, config.step_limits),
        )
        for env, names in tasks.items()
    )


def make_environment(
    env: str,
    task: str,
    *,
    cameras: tuple[str, ...],
    image_size: int,
    max_steps: Mapping[str, int],
    rendering: Rendering,
) -> SimulatedTask:
    """Build a simulated task, in the worker that runs it; `max_steps` are the limits by environment."""
    return simulation.make(
        env,
        task,
        cameras=cameras,
        image_size=image_size,
        max_steps=max_steps[env],
        rendering=rendering,
    )


def _default_tasks(config: EvaluationConfig) -> dict[str, Sequence[str]]:
    return {env: simulation.default_tasks(env) for env in config.envs}


def _named_tasks(config: EvaluationConfig) -> dict[str, Sequence[str]]:
    """The names in `config.tasks` by the environments that know them."""
    chosen: dict[str, list[str]] = {env: [] for env in config.envs}
    for name in config.tasks:
        knowing = [env for env in chosen if _knows(env, name)]
        if not knowing and len(chosen) > 1:
            known = [task for env in chosen for task in simulation.tasks(env)]
            raise ConfigError(
                f"none of {', '.join(chosen)} has a task or task set '{name}'.{nearest(name, known)}"
            )
        for env in knowing or chosen:  # a single environment says itself what it does not know
            chosen[env].append(name)
    for env, names in chosen.items():
        if not names:
            raise ConfigError(
                f"no task of {env} is named in {', '.join(config.tasks)}: name one, or leave {env} out of env"
            )
    return dict(chosen)


def _knows(env: str, name: str) -> bool:
    try:
        simulation.resolve_tasks(env, [name])
    except ConfigError:
        return False
    return True


def _check_states(env: str, config: EvaluationConfig) -> None:
    states = simulation.official_states(env)
    first = config.seed - FIRST_EVALUATION_SEED
    if states is not None and first + config.episodes > states:
        raise ConfigError(
            f"{env} has {states} official initial states per task, and {config.episodes} episodes from seed "
            f"{config.seed} on ask for number {first + config.episodes}: choose fewer episodes"
        )
