"""Reads an entry of a published checkpoint's `dataset_statistics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdvla.errors import RDVLAError, nearest
from rdvla.files import read_object
from rdvla.interop.published_folder import are_numbers
from rdvla.processing import Statistics

STATISTICS_FILE = "dataset_statistics.json"
FEATURES = {"action": "action", "proprio": "observation.state"}  # published statistics -> ours
_CONSTANT = 1e-6  # narrower percentiles are normalised differently by the published code


def read_statistics(folder: Path, chosen: str | None) -> tuple[str, dict[str, Any]]:
    """Return the name of an entry of `dataset_statistics.json`, and the entry by feature.

    Args:
        folder: the checkpoint.
        chosen: name of the entry; None: the only entry.

    Raises:
        RDVLAError: there is no such entry, there are several and none is chosen, or it is damaged.
    """
    path = folder / STATISTICS_FILE
    entries = read_object(path)
    if chosen is None and len(entries) != 1:
        raise RDVLAError(f"{path} holds statistics of {sorted(entries)}: choose one with --statistics")
    key = next(iter(entries)) if chosen is None else chosen
    if key not in entries:
        raise RDVLAError(
            f"{path} holds no statistics of {key!r}; it has {sorted(entries)}.{nearest(key, entries)}"
        )
    for feature in FEATURES:
        if not isinstance(entries[key], dict) or not isinstance(entries[key].get(feature), dict):
            raise RDVLAError(f"{path} lacks the statistics of {feature!r} for {key!r}")
        _check_feature(feature, entries[key][feature], where=f"{path}: {feature!r} of {key!r}")
    return key, entries[key]


def our_statistics(published: Mapping[str, Any]) -> Statistics:
    """Return a policy's statistics: every list of numbers, under our names of the features."""
    return {
        ours: {name: values for name, values in published[theirs].items() if are_numbers(values)}
        for theirs, ours in FEATURES.items()
    }


def unscaled_actions(published: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the action dimensions that are not scaled."""
    return tuple(dimension for dimension, scaled in enumerate(_mask(published["action"])) if not scaled)


def _check_feature(feature: str, entry: Mapping[str, Any], *, where: str) -> None:
    """Raise `RDVLAError` if quantiles or mask are damaged, or cannot be reproduced."""
    low, high = entry.get("q01"), entry.get("q99")
    if not are_numbers(low) or not are_numbers(high) or len(low) != len(high):
        raise RDVLAError(f"{where} must hold 'q01' and 'q99', equally many finite numbers; got {low}, {high}")
    mask = _mask(entry)
    if not isinstance(mask, list) or len(mask) != len(low) or not all(each in (True, False) for each in mask):
        raise RDVLAError(f"{where} must hold a 'mask' of {len(low)} times true or false, or none; got {mask}")
    if feature == "proprio" and not all(mask):
        raise RDVLAError(f"{where}: 'mask' leaves a part unscaled, which is not supported for proprioception")
    for dimension, (scaled, first, last) in enumerate(zip(mask, low, high, strict=True)):
        if scaled and last - first < _CONSTANT:
            raise RDVLAError(
                f"{where}: dimension {dimension} never changed in the data; published policies divide by its "
                "width, and what they saw cannot be reproduced"
            )


def _mask(entry: Mapping[str, Any]) -> Any:
    """Return which dimensions are scaled; all, if the file does not say."""
    return entry.get("mask", [True] * len(entry["q01"]))
