"""openpi's layouts as tables, and which keys of a message a policy's cameras and proprioception get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdvla.errors import ConfigError, nearest
from rdvla.serving.config import LayoutMapping
from rdvla.serving.queries import PolicyFacts

INSTRUCTION = "prompt"  # openpi's key
NATIVE_STATE = "state"
NATIVE_IMAGES = "images"


@dataclass(frozen=True)
class Preset:
    """A layout of openpi."""

    images: Mapping[str, tuple[str, ...]]  # key -> names that a policy may have for this camera
    state: Mapping[str, int]  # key -> numbers
    state_names: tuple[str, ...] = ()  # in order, as our datasets name them; empty: no names are common
    robot: str = ""  # what it is, for messages


PRESETS: dict[str, Preset] = {
    "libero": Preset(
        images={
            "observation/image": ("agentview", "image"),
            "observation/wrist_image": ("wrist", "wrist_image", "image2"),
        },
        state={"observation/state": 8},
        state_names=("x", "y", "z", "axis_angle1", "axis_angle2", "axis_angle3", "gripper", "gripper"),
        robot="LIBERO's arm: hand position, axis-angle and both fingers",
    ),
    "droid": Preset(
        images={
            "observation/exterior_image_1_left": ("exterior_image_1_left", "exterior_1_left"),
            "observation/wrist_image_left": ("wrist_image_left", "wrist_left"),
        },
        state={"observation/joint_position": 7, "observation/gripper_position": 1},
        robot="DROID's arm: 7 joints and the gripper",
    ),
    "aloha": Preset(
        images={
            f"images/{name}": (name,) for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
        },
        state={"state": 14},
        robot="ALOHA's two arms: 14 joints and grippers",
    ),
}


def recognise(facts: PolicyFacts) -> str:
    """Return the preset whose cameras and proprioception a policy has, else native."""
    for name, preset in PRESETS.items():
        known = {camera for names in preset.images.values() for camera in names}
        if (
            facts.cameras
            and set(facts.cameras) <= known
            and sum(preset.state.values()) == facts.state_dim
            and not _other_state(facts, preset)
            and len(set(_preset_cameras(facts, preset).values())) == len(facts.cameras)
        ):
            return name
    return "native"


def _preset_cameras(facts: PolicyFacts, preset: Preset) -> dict[str, str]:
    """Camera -> key, as far as the preset knows the policy's names."""
    return {
        camera: key for camera in facts.cameras for key, names in preset.images.items() if camera in names
    }


def _other_state(facts: PolicyFacts, preset: Preset) -> bool:
    """Whether the policy names the numbers of its proprioception, and not as the preset does."""
    names = facts.robot.state_names
    return bool(preset.state_names) and len(names) == facts.state_dim and names != preset.state_names


def image_keys(facts: PolicyFacts, name: str, mapping: LayoutMapping) -> dict[str, str]:
    """Return camera -> key, for every camera of a policy.

    Raises:
        ConfigError: a camera has no key, or two have the same.
    """
    preset = PRESETS.get(name)
    if preset is None:
        keys = {camera: f"{NATIVE_IMAGES}/{camera}" for camera in facts.cameras}
    else:
        keys = _preset_cameras(facts, preset)
    keys |= mapping.images
    missing = [camera for camera in facts.cameras if camera not in keys]
    if missing and preset is not None:
        raise ConfigError(
            f"layout {name}: which of {', '.join(preset.images)} is the policy's camera {missing[0]!r}? Say "
            f"so, such as --mapping.images '{{{missing[0]}: {next(iter(preset.images))}}}', or take --layout "
            "native"
        )
    taken: dict[str, str] = {}
    for camera in facts.cameras:
        other = taken.setdefault(keys[camera], camera)
        if other != camera:
            raise ConfigError(
                f"layout {name}: the cameras {other!r} and {camera!r} would both be {keys[camera]!r}; give "
                "each its key with --mapping.images"
            )
    return {camera: keys[camera] for camera in facts.cameras}


def state_keys(facts: PolicyFacts, name: str, mapping: LayoutMapping) -> dict[str, int | None]:
    """Return the keys of a policy's proprioception, each with its numbers; None: not known.

    Raises:
        ConfigError: the layout's clients send other numbers than the policy takes.
    """
    if mapping.state:
        return dict.fromkeys(mapping.state)
    preset = PRESETS.get(name)
    if preset is None:
        return {NATIVE_STATE: facts.state_dim} if facts.state_dim else {}
    sent = sum(preset.state.values())
    if sent != facts.state_dim:
        raise ConfigError(
            f"layout {name}: its clients send {sent} numbers of proprioception ({preset.robot}), the policy "
            f"takes {facts.state_dim}: name the keys with --mapping.state, or take --layout native"
        )
    if _other_state(facts, preset):
        raise ConfigError(
            f"layout {name}: its clients send {', '.join(preset.state_names)}, the policy was trained on "
            f"{', '.join(facts.robot.state_names)}. If these are the same numbers, say so with "
            f"--mapping.state '[{', '.join(preset.state)}]'; else take --layout native"
        )
    return dict(preset.state)


def check_camera(camera: str, cameras: Sequence[str], *, option: str) -> None:
    """Raise `ConfigError` if an option names a camera that a policy lacks."""
    if camera not in cameras:
        raise ConfigError(
            f"{option} names {camera!r}, the policy's cameras are {', '.join(cameras)}."
            f"{nearest(camera, cameras)}"
        )
