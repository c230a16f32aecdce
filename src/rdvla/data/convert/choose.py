"""Decide which features of a source become the action and the state, and what its cameras are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rdvla.data.convert.source import Flip, SourceFacts
from rdvla.errors import ConfigError, nearest

NO_STATE = "none"


@dataclass(frozen=True)
class Choices:
    """What the user says of a conversion; what is left open comes from the source, or is refused.

    Attributes:
        fps: control frequency in Hz.
        action: features that make up the action, in this order.
        state: features that make up the state; ("none",) for none.
        cameras: the source's names of cameras -> new names; cameras not in it are left out.
        task: instruction of the episodes that have none.
        robot_type: free text for the dataset's record.
        flip: how images are turned; None: as the format's published datasets are.
    """

    fps: float | None = None
    action: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    cameras: Mapping[str, str] | None = None
    task: str | None = None
    robot_type: str | None = None
    flip: Flip | None = None


@dataclass(frozen=True)
class Plan:
    """A conversion with nothing left open.

    Attributes:
        fps: control frequency in Hz, an integer as LeRobot wants it.
        action: features that make up the action.
        state: features that make up the state, possibly none.
        cameras: the source's names of cameras -> new names.
        task: instruction of the episodes that have none.
        robot_type: for the dataset's record.
        flip: how images are turned.
    """

    fps: int
    action: tuple[str, ...]
    state: tuple[str, ...]
    cameras: Mapping[str, str]
    task: str | None
    robot_type: str | None
    flip: Flip


def decide(facts: SourceFacts, choices: Choices) -> Plan:
    """Complete the choices from what the source says of itself.

    Raises:
        ConfigError: something is unknown to the source and was not given, or a name is wrong; the message
            says which option to give and lists what there is.
    """
    return Plan(
        fps=_fps(facts, choices),
        action=_features("action", choices.action or facts.action, facts),
        state=_state(facts, choices),
        cameras=_cameras(facts, choices),
        task=choices.task,
        robot_type=choices.robot_type or facts.robot_type,
        flip=choices.flip or facts.flip,
    )


def _fps(facts: SourceFacts, choices: Choices) -> int:
    fps = choices.fps if choices.fps is not None else facts.fps
    if fps is None:
        raise ConfigError(
            f"{facts.format} does not hold the control frequency: give it with --fps, such as --fps 5 for "
            "BridgeData V2; the dataset's paper or card says it"
        )
    if fps < 1 or fps != int(fps):
        raise ConfigError(f"--fps must be an integer of at least 1, got {fps:g}: LeRobot's format wants one")
    return int(fps)


def _state(facts: SourceFacts, choices: Choices) -> tuple[str, ...]:
    if choices.state == (NO_STATE,):
        return ()
    return _features("state", choices.state or facts.state, facts, unless=f", or --state {NO_STATE}")


def _features(option: str, names: Sequence[str], facts: SourceFacts, *, unless: str = "") -> tuple[str, ...]:
    listed = ", ".join(f"{name} {list(shape)}" for name, shape in facts.features.items())
    if not names:
        raise ConfigError(
            f"which features are the {option}? Give --{option} NAME ...{unless}. Numbers of a step: {listed}"
        )
    found = [_full_name(name, facts.features) for name in names]
    if None in found:
        wrong = names[found.index(None)]
        near = nearest(wrong, [*facts.features, *map(_short, facts.features)])
        raise ConfigError(f"--{option}: there is no feature {wrong!r}.{near} Numbers of a step: {listed}")
    return tuple(name for name in found if name is not None)


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _full_name(given: str, names: Iterable[str]) -> str | None:
    """Return the name that is meant: in full, or the last part of it if no other name ends so."""
    alike = [name for name in names if name == given] or [name for name in names if _short(name) == given]
    return alike[0] if len(alike) == 1 else None


def _cameras(facts: SourceFacts, choices: Choices) -> dict[str, str]:
    short = [_short(name) for name in facts.cameras]
    if choices.cameras is None:
        if len(set(short)) < len(short):
            raise ConfigError(f"name the cameras with --cameras NAME=CAMERA: {', '.join(facts.cameras)}")
        return dict(zip(facts.cameras, short, strict=True))
    chosen = {}
    for given, camera in choices.cameras.items():
        name = _full_name(given, facts.cameras)
        if name is None:
            raise ConfigError(
                f"--cameras: there is no camera {given!r}.{nearest(given, [*short, *facts.cameras])} "
                f"Cameras: {', '.join(facts.cameras) or 'none'}"
            )
        chosen[name] = camera
    return chosen
