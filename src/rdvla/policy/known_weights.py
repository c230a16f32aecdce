"""Hashes of published weights that this machine computed before, so loading a policy does not wait for them.

A hash is remembered for the files that the weights were loaded from: their places, sizes and times of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from rdvla.backbone import BackboneConfig
from rdvla.config import encode_config
from rdvla.errors import RDVLAError
from rdvla.files import read_object, write_json


def remembered(compute: Callable[[], str], *, models: Sequence[str], config: BackboneConfig) -> str:
    """Return the hash of weights that were just loaded; compute it only if their files are not known.

    Args:
        compute: hashes the weights.
        models: hub ids (with ``@revision``) or folders that they were loaded from.
        config: which of a model's weights are loaded, and as what.
    """
    files = [_weight_files(name) for name in models]
    if not all(files):
        return compute()
    content = json.dumps(
        [
            [_identity(file) for group in files for file in group],
            encode_config(config),
            metadata.version("torch"),
            metadata.version("transformers"),
        ]
    )
    path = _folder() / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.json"
    with suppress(RDVLAError):  # not there, or damaged
        found = read_object(path).get("weights")
        if isinstance(found, str):
            return found
    computed = compute()
    with suppress(OSError, RDVLAError):  # a home that cannot be written is no reason to fail
        write_json(path, {"weights": computed})
    return computed


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rdvla" / "weights"


def _weight_files(model: str) -> list[Path]:
    """Files of a published model on this machine; none if it was loaded from elsewhere."""
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        name, _, revision = model.partition("@")
        found = try_to_load_from_cache(name, "config.json", revision=revision or None)
        if not isinstance(found, str):
            return []
        folder = Path(found).parent
    return sorted(folder.glob("*.safetensors"))


def _identity(file: Path) -> list[Any]:
    facts = file.resolve().stat()
    return [str(file.resolve()), facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]
