"""A policy on disk: `config.json`, `model.safetensors`, `statistics.json`. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rdvla.assets import find_policy
from rdvla.config import decode_config, encode_config
from rdvla.errors import RDVLAError
from rdvla.files import read_json, write_atomically, write_json
from rdvla.policy.config import PolicyConfig
from rdvla.policy.lerobot import is_lerobot, read_lerobot
from rdvla.policy.run_folder import RUN_POLICY, RUN_RECORD, find_checkpoint, resume_command
from rdvla.processing import Statistics

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
STATISTICS_FILE = "statistics.json"
DOWNLOADED = ("*.json", "*.safetensors")  # nothing else is read, a tokenizer's files included


def write_description(folder: Path, *, config: PolicyConfig, statistics: Statistics) -> None:
    """Write configuration and statistics, each atomically."""
    write_statistics(folder, statistics)
    write_json(folder / CONFIG_FILE, encode_config(config))


def write_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors` into a folder, atomically."""
    with write_atomically(folder / WEIGHTS_FILE) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)


def find_policy_folder(name_or_path: str | Path, **download: Any) -> Path:
    """Return the folder that holds a policy's files.

    Args:
        name_or_path: a policy's folder, a run directory of `rdvla train` or of `lerobot-train` that holds
            one, the name of a policy that ships, or an id on the hub.
        download: options of `huggingface_hub.snapshot_download`.

    Raises:
        RDVLAError: there is no such folder, the run has no policy yet, or the hub does not give the policy.
    """
    folder = find_policy(name_or_path) or local_folder(
        name_or_path, kind="policy", files=DOWNLOADED, **download
    )
    if not (folder / CONFIG_FILE).exists():
        folder = find_checkpoint(folder) or folder
    if (folder / CONFIG_FILE).exists() or not (folder / RUN_RECORD).is_file():
        return folder
    if not (folder / RUN_POLICY / CONFIG_FILE).is_file():
        raise RDVLAError(
            f"{folder} is a training run that has no policy yet: it writes one at its first validation and "
            f"at its end. Go on with it by `{resume_command(folder)}`."
        )
    return folder / RUN_POLICY


def local_folder(name_or_path: str | Path, *, kind: str, files: Sequence[str], **download: Any) -> Path:
    """Return the folder itself, or the local copy of what the hub holds.

    Args:
        name_or_path: a folder, or an id on the hub ("user/name" or "user/name@revision").
        kind: its name in an error, such as "policy".
        files: patterns of the files to download.
        download: more options of `huggingface_hub.snapshot_download`.

    Raises:
        RDVLAError: there is no such folder, and the hub does not give it.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder
    name, _, revision = str(name_or_path).partition("@")
    if revision:
        download["revision"] = revision
    try:
        return Path(snapshot_download(name, allow_patterns=list(files), **download))
    except (OSError, ValueError) as error:  # among others the hub client's own errors
        raise RDVLAError(f"{name_or_path} is no folder, and no {kind} that the hub gives: {error}") from error


def read_description(folder: Path) -> tuple[PolicyConfig, Statistics]:
    """Read the configuration and statistics of a policy folder, in our layout or in LeRobot's.

    Raises:
        RDVLAError: a file is missing or damaged.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    if is_lerobot(values):
        return read_lerobot(folder, values, source=str(path))
    return decode_config(PolicyConfig, values, source=str(path)), read_statistics(folder)


def write_statistics(folder: Path, statistics: Statistics) -> None:
    """Write `statistics.json` into a folder, atomically."""
    plain = {
        feature: {name: _list(values) for name, values in entries.items()}
        for feature, entries in statistics.items()
    }
    write_json(folder / STATISTICS_FILE, plain)


def read_statistics(folder: Path) -> dict[str, Any]:
    """Read a folder's `statistics.json`.

    Raises:
        RDVLAError: it is missing or damaged.
    """
    statistics = read_json(folder / STATISTICS_FILE)
    if not isinstance(statistics, dict):
        raise RDVLAError(f"{folder / STATISTICS_FILE} must hold statistics by feature")
    return statistics


def load_weights(module: nn.Module, folder: Path, *, wanted: set[str]) -> None:
    """Load the weights of a policy folder, which must be exactly the `wanted` ones, and finite.

    Raises:
        RDVLAError: the file is missing or damaged, or does not fit the configuration next to it.
    """
    path = folder / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RDVLAError(f"{path} cannot be read as safetensors: {error}") from error
    if weights.keys() != wanted:
        raise names_differ(path, set(weights), wanted)
    check_finite(weights, path)
    try:
        module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise RDVLAError(f"{path} does not fit the configuration next to it: {error}") from error


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise `RDVLAError` if a weight of a file is NaN or infinite: its policy would compute NaN actions."""
    for name, value in weights.items():
        if not (value.is_floating_point() and value.numel()):
            continue
        low, high = value.aminmax()  # both are NaN if any number is; 15 times as fast as isfinite()
        if not (low.isfinite() and high.isfinite()):
            raise RDVLAError(
                f"{path} is damaged: {name} holds NaN or infinite numbers. Get or train the policy again"
            )


def names_differ(path: Path, held: set[str], wanted: set[str]) -> RDVLAError:
    """Return the error for a file whose weights are not those that are wanted."""
    return RDVLAError(
        f"{path} does not fit the configuration next to it: missing {_some(wanted - held)}, "
        f"unexpected {_some(held - wanted)}"
    )


def _some(names: set[str]) -> str:
    shown = sorted(names)[:4]
    return f"{', '.join(shown) or 'nothing'}{' and more' if len(names) > len(shown) else ''}"


def _list(values: Sequence[float]) -> list[Any]:
    return values.tolist() if hasattr(values, "tolist") else list(values)
