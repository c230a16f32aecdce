"""Which simulators there are, found by name and imported only when used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rdvla.errors import ConfigError, missing_extra, nearest

if TYPE_CHECKING:
    from rdvla.simulation.environment import Expert, SimulatedTask
    from rdvla.simulation.rendering import Rendering

# Demonstrations use scene seeds below this number, evaluations use seeds from it on. So no evaluated layout
# can have been demonstrated.
FIRST_EVALUATION_SEED = 1_000_000


@dataclass(frozen=True)
class TaskSuite:
    """The tasks of an environment and its evaluation protocol; known without importing the simulator.

    Attributes:
        instructions: task name -> what it asks for, in the benchmark's order.
        sets: name of a set -> names of its tasks.
        default_tasks: tasks or sets that are meant if none are named.
        step_limits: name of a protocol -> control steps after which an episode ends.
        default_step_limit: the protocol that evaluations use by default.
        cameras: names of the cameras; by default all are used.
        noise_levels: default standard deviations of the noise in demonstrations, action units.
        burst_probability: default probability per control step that a burst of noise starts.
        official_states: initial states that the benchmark fixes for each task; None if it draws them.
    """

    instructions: Mapping[str, str]
    sets: Mapping[str, tuple[str, ...]]
    default_tasks: tuple[str, ...]
    step_limits: Mapping[str, int]
    default_step_limit: str
    cameras: tuple[str, ...]
    noise_levels: tuple[float, ...]
    burst_probability: float
    official_states: int | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(self.instructions)


@dataclass(frozen=True)
class Simulator:
    """Where a simulator's classes are. Modules are named, not imported: each needs an extra of its own.

    Attributes:
        extra: what to write in `pip install 'rdvla[extra]'` to get its package.
        suite: "module:name" of a `TaskSuite`; the module imports no simulator.
        environment: "module:class", a `SimulatedTask`, built by `class(task, cameras=..., ...)`.
        expert: "module:class", an `Expert` built by `class(task, seed=...)`.
        arguments: further arguments of the environment.
    """

    extra: str
    suite: str
    environment: str
    expert: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def _libero(name: str, suite: str) -> Simulator:
    return Simulator(
        extra="libero",
        suite=f"rdvla.simulation.libero.tasks:{suite}",
        environment="rdvla.simulation.libero.environment:LiberoEnv",
        expert="rdvla.simulation.libero.expert:LiberoExpert",
        arguments={"suite": name},
    )


SIMULATORS: dict[str, Simulator] = {
    "metaworld": Simulator(
        extra="metaworld",
        suite="rdvla.simulation.metaworld.tasks:SUITE",
        environment="rdvla.simulation.metaworld.environment:MetaWorldEnv",
        expert="rdvla.simulation.metaworld.environment:MetaWorldExpert",
    ),
    "libero_spatial": _libero("libero_spatial", "SPATIAL"),
    "libero_object": _libero("libero_object", "OBJECT"),
    "libero_goal": _libero("libero_goal", "GOAL"),
    "libero_10": _libero("libero_10", "LONG"),
    "libero_90": _libero("libero_90", "NINETY"),
}


def evaluation_seed(episode: int, *, offset: int = 0) -> int:
    """Return the scene seed of an evaluation's episode `episode`, the same for every setting compared."""
    if episode < 0 or offset < 0:
        raise ConfigError(f"episode and offset must be 0 or more, got {episode} and {offset}")
    return FIRST_EVALUATION_SEED + offset + episode


def simulator_extra(env: str) -> str:
    """Return the extra of rdvla that brings a simulator; for `libero_goal,libero_10`, the first's."""
    name = env.split(",")[0].strip()
    return SIMULATORS[name].extra if name in SIMULATORS else "eval"


def task_suite(env: str) -> TaskSuite:
    """Return a simulator's tasks and protocol, without any extra; `ConfigError` if it is unknown."""
    module, name = _simulator(env).suite.split(":")
    suite: TaskSuite = getattr(importlib.import_module(module), name)
    return suite


def tasks(env: str) -> list[str]:
    """Return the names of a simulator's tasks, without any extra; `ConfigError` if it is unknown."""
    return list(task_suite(env).tasks)


def default_tasks(env: str) -> tuple[str, ...]:
    """Return the tasks or sets that are meant if none are named."""
    return task_suite(env).default_tasks


def step_limit(env: str, name: str | None = None) -> int:
    """Return after how many control steps an episode ends under the protocol `name`; None: the default.

    Raises:
        ConfigError: the simulator has no such protocol.
    """
    suite = task_suite(env)
    name = suite.default_step_limit if name is None else name
    if name not in suite.step_limits:
        raise ConfigError(f"{env} has no step limit '{name}'. Known: {', '.join(suite.step_limits)}")
    return suite.step_limits[name]


def official_states(env: str) -> int | None:
    """Return how many initial states per task the benchmark fixes for evaluations; None if it draws them."""
    return task_suite(env).official_states


def resolve_tasks(env: str, names: Sequence[str] | str) -> list[str]:
    """Return the tasks that `names` stand for: tasks and sets such as "MT10", each task once, in order.

    Raises:
        ConfigError: the simulator, a task or a set is unknown, or the list is empty.
    """
    suite = task_suite(env)
    resolved: dict[str, None] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in suite.sets and name not in suite.instructions:
            known = [*suite.sets, *suite.tasks]
            raise ConfigError(
                f"{env} has no task or task set '{name}'.{nearest(name, known)} "
                f"Task sets: {', '.join(suite.sets)}; "
                f"rdvla.simulation.tasks('{env}') lists all {len(suite.tasks)} tasks"
            )
        resolved.update(dict.fromkeys(suite.sets.get(name, (name,))))
    if not resolved:
        raise ConfigError(f"no task is named; give tasks of {env} or a set: {', '.join(suite.sets)}")
    return list(resolved)


def make(
    env: str,
    task: str,
    *,
    cameras: Sequence[str] | None = None,
    image_size: int = 128,
    max_steps: int | None = None,
    stop_on_success: bool = False,
    render_mode: str | None = None,
    rendering: Rendering = "fast",
) -> SimulatedTask:
    """Return one task of a simulator as a Gymnasium environment.

    Args:
        env: name of the simulator, such as "metaworld".
        task: name of a task, see `tasks(env)`.
        cameras: what `render_cameras` renders; None: all of the simulator's cameras.
        image_size: height and width of the images in pixels.
        max_steps: time limit in control steps; None: the published limit.
        stop_on_success: end the episode at the first success.
        render_mode: None or "rgb_array", for Gymnasium's wrappers.
        rendering: see `simulation.rendering`; "full" for policies trained on a benchmark's own images.

    Raises:
        ConfigError: an unknown simulator, task or camera, or a size or limit below 1.
        MissingExtraError: the simulator's package is not installed.
    """
    names = tasks(env)
    if task not in names:
        raise ConfigError(
            f"{env} has no task '{task}'.{nearest(task, names)} rdvla.simulation.tasks('{env}') lists all"
        )
    simulator = _simulator(env)
    built: SimulatedTask = _load(simulator, "environment")(
        task,
        instruction=task_suite(env).instructions[task],
        cameras=cameras,
        image_size=image_size,
        max_steps=step_limit(env, "published") if max_steps is None else max_steps,
        stop_on_success=stop_on_success,
        render_mode=render_mode,
        rendering=rendering,
        **simulator.arguments,
    )
    return built


def make_expert(env: str, task: str, *, seed: int = 0) -> Expert:
    """Return a fresh scripted expert for a task; make another for each episode. Raises like `make`.

    `seed` determines all that an expert leaves to chance, such as its starting point.
    """
    resolve_tasks(env, [task])
    expert: Expert = _load(_simulator(env), "expert")(task, seed=seed)
    return expert


def _simulator(env: str) -> Simulator:
    if env not in SIMULATORS:
        raise ConfigError(
            f"unknown simulator '{env}'.{nearest(env, SIMULATORS)} Known: {', '.join(SIMULATORS)}"
        )
    return SIMULATORS[env]


def _load(simulator: Simulator, role: Literal["environment", "expert"]) -> Any:
    """Import and return the class in a role."""
    module, name = getattr(simulator, role).split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rdvla"):
            raise
        raise missing_extra(error.name, simulator.extra) from error
