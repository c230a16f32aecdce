"""A policy in LeRobot's layout, as the plugin `lerobot_policy_rdvla` saves and loads it.

The weights have the names of our own layout. `config.json` holds the options of `PolicyConfig` next to
LeRobot's. Statistics are the state of a step of LeRobot's preprocessor, which normalises numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rdvla.config import decode_config, encode_config
from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_atomically, write_json
from rdvla.policy.config import PolicyConfig
from rdvla.processing import Statistics
from rdvla.processing.cameras import camera_key

if TYPE_CHECKING:
    from rdvla.policy.policy import RDVLAPolicy

POLICY_TYPE = "rdvla"  # of the policy in LeRobot's registry
CONFIG = "config.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
IMAGES, NORMALIZER, UNNORMALIZER = "rdvla_images", "rdvla_normalizer", "rdvla_unnormalizer"  # our steps
ACTION, STATE = "action", "observation.state"
# LeRobot's own normalisation, which does nothing here. Its commands name the step when they load a policy to
# train it further, and fail if there is none.
NOTHING = {"eps": 1e-8, "features": {}, "norm_map": {}}


def is_lerobot(values: Any) -> bool:
    """Whether the content of a `config.json` is of a policy of ours in LeRobot's layout."""
    return isinstance(values, dict) and values.get("type") == POLICY_TYPE


def read_lerobot(folder: Path, values: Mapping[str, Any], *, source: str) -> tuple[PolicyConfig, Statistics]:
    """Read the configuration and statistics of a policy in LeRobot's layout.

    Args:
        folder: of the policy, `pretrained_model` in a checkpoint of `lerobot-train`.
        values: content of its `config.json`.
        source: for messages.

    Raises:
        RDVLAError: a file is missing or damaged, or an option has a wrong value.
    """
    known = {field.name for field in fields(PolicyConfig)}
    options = {name: value for name, value in values.items() if name in known}
    return decode_config(PolicyConfig, options, source=source), _read_statistics(folder)


def write_lerobot(policy: RDVLAPolicy, folder: Path) -> None:
    """Write a policy so `lerobot-eval --policy.path=FOLDER` opens it; needs no LeRobot.

    Args:
        policy: with nothing left open.
        folder: exists and is empty.
    """
    config = policy.config
    policy.save_weights(folder)
    write_json(folder / CONFIG, {"type": POLICY_TYPE, **feature_options(config), **encode_config(config)})
    units, packed = unit_options(config), pack_statistics(policy.statistics)
    _write_pipeline(
        folder,
        PREPROCESSOR,
        [
            ("rename_observations_processor", {"rename_map": {}}, None),
            ("to_batch_processor", {}, None),
            (IMAGES, image_options(config), None),
            (NORMALIZER, units, packed),
            ("normalizer_processor", NOTHING, None),
            ("device_processor", {"device": "cpu", "float_dtype": None}, None),
        ],
    )
    _write_pipeline(
        folder,
        POSTPROCESSOR,
        [
            (UNNORMALIZER, units, packed),
            ("unnormalizer_processor", NOTHING, None),
            ("device_processor", {"device": "cpu", "float_dtype": None}, None),
        ],
    )


def feature_options(config: PolicyConfig) -> dict[str, Any]:
    """Return `input_features` and `output_features` of LeRobot's configuration."""
    size = (config.image_size, config.image_size)
    images = {
        camera_key(camera): {"type": "VISUAL", "shape": [3, *config.camera_sizes.get(camera, size)]}
        for camera in config.cameras
    }
    state = {STATE: {"type": "STATE", "shape": [config.state_dim]}} if config.state_dim else {}
    action = {ACTION: {"type": "ACTION", "shape": [config.head.action_dim]}}
    return {"input_features": images | state, "output_features": action}


def image_options(config: PolicyConfig) -> dict[str, Any]:
    """Return the options of the step that makes images square."""
    fits = config.fits
    return {
        "fits": {camera: [fit.size, fit.how] for camera, fit in fits.fits.items()},
        "sizes": {camera: list(size) for camera, size in fits.sizes.items()},
    }


def unit_options(config: PolicyConfig) -> dict[str, Any]:
    """Return the options of the steps that normalise the state and actions, and bring actions back."""
    return {
        "action_dim": config.head.action_dim,
        "state_dim": config.state_dim,
        "unscaled_actions": list(config.kept_actions),
        "gripper_opening": list(config.gripper_opening),
        "clip_state": config.clip_state,
    }


def pack_statistics(statistics: Statistics) -> dict[str, Tensor]:
    """Return statistics as `<feature>/<name>` -> float64, which loses nothing."""
    return {
        f"{feature}/{name}": torch.as_tensor(values, dtype=torch.float64).reshape(-1).clone()
        for feature, entry in statistics.items()
        for name, values in entry.items()
    }


def unpack_statistics(packed: Mapping[str, Tensor]) -> dict[str, dict[str, list[float]]]:
    """Return what `pack_statistics` was given."""
    statistics: dict[str, dict[str, list[float]]] = {}
    for key, values in packed.items():
        feature, _, name = key.rpartition("/")
        statistics.setdefault(feature, {})[name] = values.tolist()
    return statistics


def _read_statistics(folder: Path) -> Statistics:
    path = folder / f"{PREPROCESSOR}.json"
    steps = read_object(path).get("steps")
    entries = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    names = [step.get("state_file") for step in entries if step.get("registry_name") == NORMALIZER]
    if len(names) != 1 or not isinstance(names[0], str) or Path(names[0]).name != names[0]:
        raise RDVLAError(
            f"{path} has no step {NORMALIZER!r} with a state: it is no checkpoint of an rdvla policy"
        )
    try:
        return unpack_statistics(load_file(folder / names[0]))
    except (OSError, SafetensorError) as error:
        raise RDVLAError(f"{folder / names[0]} cannot be read as safetensors: {error}") from error


def _write_pipeline(
    folder: Path, name: str, steps: list[tuple[str, dict[str, Any], dict[str, Tensor] | None]]
) -> None:
    entries = []
    for number, (step, options, state) in enumerate(steps):
        entry: dict[str, Any] = {"registry_name": step, "config": options}
        if state is not None:
            entry["state_file"] = f"{name}_step_{number}_{step}.safetensors"
            with write_atomically(folder / entry["state_file"]) as temporary:
                save_file(state, temporary)
        entries.append(entry)
    write_json(folder / f"{name}.json", {"name": name, "steps": entries})
