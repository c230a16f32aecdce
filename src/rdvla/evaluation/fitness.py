"""Does this policy fit this environment? Asked once before the first episode, answered in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console

from rdvla.errors import ConfigError, RDVLAError, nearest
from rdvla.evaluation.protocol import Suite
from rdvla.policy.config import PolicyConfig, RobotConfig
from rdvla.rollout import Environment, MakeEnvironment, Opened, OpeningJob, open_each
from rdvla.simulation.registry import task_suite
from rdvla.workers import Failed, Transport

# Exceptions of a worker whose message is a sentence for the user; any other is shown with its type.
SAID = {"ConfigError", "RDVLAError", "MissingExtraError", "InputError", "WorkerDied"}


class Fits(Protocol):
    """Checks that a policy can act in environments that were opened."""

    def __call__(self, opened: dict[str, Opened], *, console: Console) -> None:
        """Raise `ConfigError` if it cannot; warn on the console."""
        ...


def open_environments(
    suites: Sequence[Suite],
    *,
    make: MakeEnvironment[Environment],
    seed: int,
    workers: int,
    transport: Transport,
) -> dict[str, Opened]:
    """Open each environment with its first task, in a worker; return what they show by environment.

    Raises:
        RDVLAError: one cannot be opened; its traceback is a note of the error.
    """
    opened: dict[str, Opened] = {}
    jobs = [OpeningJob(suite.env, suite.tasks[0], seed) for suite in suites]
    for end in open_each(jobs, make=make, workers=workers, transport=transport):
        if isinstance(end, Failed):
            said = end.message if end.type in SAID else f"{end.type}: {end.message}"
            error = RDVLAError(f"{end.job.env} does not open ({end.job.task}): {said}")
            error.add_note(end.traceback)
            raise error
        opened[end.job.env] = end.result
    return opened


def check_cameras(config: PolicyConfig, envs: Sequence[str]) -> None:
    """Check, without a simulator, that the environments have the policy's cameras and render their shapes.

    Raises:
        ConfigError: a camera is missing, or gave images in training that are not square.
    """
    for env in envs:
        known = task_suite(env).cameras
        for camera in config.cameras:
            if camera not in known:
                raise ConfigError(
                    f"the policy needs camera '{camera}', which {env} does not have.{nearest(camera, known)} "
                    f"Cameras of {env}: {', '.join(known)}. Train under these names: --data.cameras renames"
                )
    for camera, (height, width) in recorded_sizes(config).items():
        if height != width:
            raise ConfigError(
                f"the policy was trained on images of {width}x{height} pixels from camera '{camera}', and "
                f"{', '.join(envs)} renders square ones: evaluate it where its cameras are"
            )


def recorded_sizes(config: PolicyConfig) -> dict[str, tuple[int, int]]:
    """Return the (height, width) of the images that training saw, by camera."""
    square = (config.image_size, config.image_size)
    return {camera: config.camera_sizes.get(camera, square) for camera in config.cameras}


def check_policy(
    config: PolicyConfig, opened: dict[str, Opened], *, allow_other_robot: bool, console: Console
) -> None:
    """Check that a policy can act in environments that were opened, on the robot that it was trained on.

    Args:
        config: the policy's.
        opened: what the environments show, by name.
        allow_other_robot: warn instead, if only the robot's type, or names or units of its joints, differ.
        console: for warnings.

    Raises:
        ConfigError: a camera or a size differs, or the robot does.
        InputError: a camera gives images of another shape than in training.
    """
    for env, shown in opened.items():
        _sizes(config, env, shown)
        for problem in robot_differences(config.robot, shown):
            if not allow_other_robot:
                raise ConfigError(
                    f"the policy was trained on another robot than {env} has: {problem}. "
                    "Give --allow_other_robot true if they are meant to be the same"
                )
            _warn(console, f"{env}: {problem}")
        trained, hz = config.robot.fps, shown.control_hz
        if trained and hz and abs(trained - hz) > 0.01 * hz:
            _warn(console, f"{env} runs at {hz:g} Hz, and the policy was trained at {trained:g} Hz")


def _sizes(config: PolicyConfig, env: str, shown: Opened) -> None:
    for camera in config.cameras:
        if camera not in shown.images:
            known = list(shown.images)
            raise ConfigError(
                f"the policy does not fit {env}: it needs camera '{camera}', there are {', '.join(known)}."
                f"{nearest(camera, known)}"
            )
        config.fits.check_shape(camera, shown.images[camera], of=env)
    for what, found, expected in (
        ("state", shown.state_size, config.state_dim),
        ("action", shown.action_size, config.head.action_dim),
    ):
        if found is not None and expected and found != expected:  # 0: the policy takes no state
            raise ConfigError(
                f"the policy does not fit {env}: its {what} has {found} numbers, and the policy's {expected}"
            )


def robot_differences(robot: RobotConfig, shown: Opened) -> Iterator[str]:
    """Say what differs between two robots, as far as both sides tell."""
    if robot.type and shown.robot_type and robot.type != shown.robot_type:
        yield f"'{robot.type}', not '{shown.robot_type}'"
    for kind in ("action", "state"):
        for what, theirs in (("names", shown.names.get(kind)), ("units", shown.units.get(kind))):
            ours = tuple(getattr(robot, f"{kind}_{what}"))
            if ours and theirs and ours != theirs:
                yield f"the {what} of the {kind} are {_list(ours)}, not {_list(theirs)}"


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]"


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)
