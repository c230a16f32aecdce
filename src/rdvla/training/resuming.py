"""What may change when a run goes on, and where the paths in its config.yaml lead.

In a run's config.yaml, `output_dir` is `.`, and a path that begins with `./` is relative to the run's folder.
Other relative paths are as they were typed. They are looked for from the present folder first, then from the
folder that the run was started in, whose place relative to the run is in run.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rdvla.config import encode_config, read_yaml
from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_atomically
from rdvla.policy.run_folder import RUN_CONFIG, RUN_RECORD
from rdvla.training.config import TrainConfig

STARTED_IN = "started_in"  # in the record: the folder that the run was started in, relative to the run
HERE = "./"  # begins a path in config.yaml that is relative to the run directory

# Option, or group of options, that may change when a run goes on -> why.
MAY_CHANGE = {
    "resume": "it is how a run goes on",
    "resume_from_previous": "it is how a run goes on",
    "output_dir": "a run may be moved or copied",
    "dataset": "it may lie elsewhere; its content is compared by a fingerprint",
    "init_from": "it may lie elsewhere; weights that are not trained are compared by a fingerprint",
    "steps": "a run may be extended or shortened; the learning rate moves over to the new schedule",
    "validation.every": "how often is validated decides nothing about an update",
    "checkpoints": "what is kept decides nothing about an update",
    "log_every": "what is shown decides nothing about an update",
    "trackers": "what is shown decides nothing about an update",
    "compute": "it decides speed and memory alone; results may differ in their last bits",
    "threads": "another machine has other cores; results may differ in their last bits",
    "device": "another machine has another accelerator; results may differ in their last bits",
    "data.cache_dir": "what is cached does not depend on its place",
    "data.cache_batch_size": "another machine has other memory; results may differ in their last bits",
    "data.cache_gb": "what is kept here decides nothing about an update",
    "data.stream_dir": "what is kept does not depend on its place",
    "data.memory_limit_gb": "another machine has other memory",
}
_READ = ("dataset", "init_from")
_PATHS = (*_READ, "data.cache_dir", "data.stream_dir")


def may_change(option: str) -> bool:
    """Return whether the dotted name of an option, or a group that it is in, is in `MAY_CHANGE`."""
    words = option.split(".")
    return any(".".join(words[: count + 1]) in MAY_CHANGE for count in range(len(words)))


def save_run_config(folder: Path, config: TrainConfig) -> None:
    """Write `config.yaml` into a run directory, with paths inside it relative to it."""
    values = encode_config(replace(config, resume=False, resume_from_previous=False))
    values["output_dir"] = "."
    for option in _PATHS:
        group, name = _owner(values, option)
        group[name] = ",".join(_inside(path, folder, option=option) for path in group[name].split(","))
    with write_atomically(folder / RUN_CONFIG) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def started_in(folder: Path) -> str:
    """Return the present folder relative to a run directory; empty if they share no disk."""
    try:
        return Path(os.path.relpath(Path.cwd(), folder)).as_posix()
    except (ValueError, OSError):  # other drives of Windows; a present folder that was removed
        return ""


def options_of_run(argv: Sequence[str]) -> list[str]:
    """Add to a command line what a run directory's `config.yaml` leaves to the place where it lies.

    Args:
        argv: words of a command line; a `--config` that is no run directory's is left as it is.

    Returns:
        The words, with `output_dir` and the paths that lead elsewhere from here, unless they are given.
    """
    words = list(argv)
    given = dict(_options(words))
    if "output_dir" in given and not given.keys() & {"config", "config_path", "dataset"}:
        saved = Path(given["output_dir"]) / RUN_CONFIG
        if given.get("resume") in ("true", "True") and saved.is_file():
            words.append(f"--config={saved}")
            given["config"] = str(saved)
    file = Path(given.get("config", given.get("config_path", "")))
    folder = file.parent
    if not (file.name == RUN_CONFIG and file.is_file() and (folder / RUN_RECORD).is_file()):
        return words
    paths = {"output_dir": folder.as_posix(), **_resolved(file)}
    return words + [f"--{name}={json.dumps(path)}" for name, path in paths.items() if name not in given]


def _resolved(file: Path) -> dict[str, str]:
    """Return the paths in a run's config.yaml that lead elsewhere than they say, by option."""
    try:
        values = read_yaml(file)
        start = read_object(file.parent / RUN_RECORD).get(STARTED_IN)
    except RDVLAError:
        return {}  # whoever reads them next says what is wrong
    start = start if isinstance(start, str) and start else "."
    found = {}
    for option in _PATHS:
        group, name = _owner(values, option)
        text = group.get(name)
        if isinstance(text, str) and text:
            placed = ",".join(_placed(path, file.parent, start) for path in text.split(","))
            if placed != text:
                found[option] = placed
    return found


def _inside(path: str, folder: Path, *, option: str) -> str:
    # What is read has been opened by now: what does not exist is an id on the hub, or a name that ships.
    if not path.strip() or (option in _READ and not Path(path.strip()).exists()):
        return path
    whole, run = Path(path.strip()).resolve(), folder.resolve()
    if whole != run and whole.is_relative_to(run):
        return HERE + whole.relative_to(run).as_posix()
    return path if Path(path).is_absolute() else path.removeprefix(HERE)


def _placed(path: str, folder: Path, start: str) -> str:
    path = path.strip()
    if path.startswith(HERE) and ((folder / path).exists() or not Path(path).exists()):
        return (folder / path).as_posix()
    from_start = folder / start / path
    if not Path(path).exists() and from_start.exists():
        return Path(os.path.normpath(from_start)).as_posix()
    return path


def _owner(values: Any, option: str) -> tuple[dict[str, Any], str]:
    *groups, name = option.split(".")
    for group in groups:
        values = values.get(group) if isinstance(values, Mapping) else None
    return (values if isinstance(values, dict) else {}), name


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for place, word in enumerate(words):
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            following = words[place + 1] if place + 1 < len(words) else ""
            yield name, value if equals else following
