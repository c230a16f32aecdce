"""Which simulators there are, found by name and imported only when used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdvla.errors import ConfigError, missing_extra, nearest

if TYPE_CHECKING:
    from rdvla.simulation.environment import SimulatedTask
    from rdvla.simulation.experts import Expert


@dataclass(frozen=True)
class Simulator:
    """Where a simulator's parts are. Modules are named, not imported: each needs an extra of its own.

    Attributes:
        extra: what to write in `pip install 'rdvla[extra]'` to get its package.
        tasks_module: has `TASKS` (names) and `TASK_SETS` (set name -> names); imports no simulator.
        environment: "module:class", a `SimulatedTask`, built by `class(task, cameras=..., ...)`.
        expert: "module:class", an `Expert` built by `class(task)`.
    """

    extra: str
    tasks_module: str
    environment: str
    expert: str


SIMULATORS: dict[str, Simulator] = {
    "metaworld": Simulator(
        extra="metaworld",
        tasks_module="rdvla.simulation.metaworld_tasks",
        environment="rdvla.simulation.metaworld:MetaWorldEnv",
        expert="rdvla.simulation.experts.metaworld:MetaWorldExpert",
    ),
}


def tasks(env: str) -> list[str]:
    """Return the names of a simulator's tasks, needing no extra; `ConfigError` if it is unknown."""
    return list(_tasks_module(env).TASKS)


def resolve_tasks(env: str, names: Sequence[str] | str) -> list[str]:
    """Return the tasks that `names` stand for: tasks and sets such as "MT10", each task once, in order.

    Raises `ConfigError` for an unknown simulator, task or set, and for an empty list.
    """
    module = _tasks_module(env)
    sets: Mapping[str, Sequence[str]] = module.TASK_SETS
    resolved: dict[str, None] = {}
    for name in [names] if isinstance(names, str) else names:
        if name not in sets and name not in module.TASKS:
            known = [*sets, *module.TASKS]
            raise ConfigError(
                f"{env} has no task or task set '{name}'.{nearest(name, known)} "
                f"Task sets: {', '.join(sets)}; "
                f"rdvla.simulation.tasks('{env}') lists all {len(module.TASKS)} tasks"
            )
        resolved.update(dict.fromkeys(sets.get(name, (name,))))
    if not resolved:
        raise ConfigError(f"no task is named; give tasks of {env} or a set: {', '.join(sets)}")
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
) -> SimulatedTask:
    """Return one task of a simulator as a Gymnasium environment.

    Args:
        env: name of the simulator, such as "metaworld".
        task: one task's name, see `tasks(env)`.
        cameras: what `render_cameras` renders; None means all of the simulator's cameras.
        image_size: height and width of the images in pixels.
        max_steps: time limit in control steps; None means the benchmark's own.
        stop_on_success: end the episode at the first success.
        render_mode: None or "rgb_array", for Gymnasium's wrappers.

    Raises:
        ConfigError: an unknown simulator, task or camera, or a size or limit below 1.
        MissingExtraError: the simulator's package is not installed.
    """
    names = tasks(env)
    if task not in names:
        raise ConfigError(
            f"{env} has no task '{task}'.{nearest(task, names)} rdvla.simulation.tasks('{env}') lists all"
        )
    limit = {} if max_steps is None else {"max_steps": max_steps}
    built: SimulatedTask = _load(_simulator(env), "environment")(
        task,
        cameras=cameras,
        image_size=image_size,
        stop_on_success=stop_on_success,
        render_mode=render_mode,
        **limit,
    )
    return built


def make_expert(env: str, task: str) -> Expert:
    """Return a fresh scripted expert for one task; use a new one for each episode. Raises like `make`."""
    resolve_tasks(env, [task])
    expert: Expert = _load(_simulator(env), "expert")(task)
    return expert


def _simulator(env: str) -> Simulator:
    if env not in SIMULATORS:
        raise ConfigError(
            f"unknown simulator '{env}'.{nearest(env, SIMULATORS)} Known: {', '.join(SIMULATORS)}"
        )
    return SIMULATORS[env]


def _tasks_module(env: str) -> Any:
    return importlib.import_module(_simulator(env).tasks_module)


def _load(simulator: Simulator, part: str) -> Any:
    """Return the class that `part` ("environment" or "expert") names, importing its module."""
    module, name = getattr(simulator, part).split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rdvla"):
            raise
        raise missing_extra(error.name, simulator.extra) from error
