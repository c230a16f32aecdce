"""Published models that a policy stands on: what they were when it was saved, so a change does not go unseen.

A policy with a published encoder or vision-language model names it and holds no copy of its weights. Another
model under the same name would give other actions without a word.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from torch import Tensor

from rdvla.backbone import Backbone, BackboneConfig
from rdvla.errors import ConfigError, RDVLAError
from rdvla.files import read_object, write_json
from rdvla.hashing import hash_tensors
from rdvla.policy.known_weights import remembered

BASE_MODELS_FILE = "base_models.json"
CHANGED_WEIGHTS = "RDVLA_CHANGED_WEIGHTS"  # environment variable, for the command line

SMALL = 2**24  # bytes of weights that are hashed as fast as they are looked up

OnChange = Literal["refuse", "warn"]

# Backbone -> the state of its published weights, and their hash: they hardly ever change in a process.
_known: WeakKeyDictionary[Backbone, tuple[Any, str]] = WeakKeyDictionary()


def write_base_models(folder: Path, backbone: Backbone) -> None:
    """Write what the published models are, or remove the file of an older policy if there are none."""
    if backbone.external_prefixes():
        write_json(folder / BASE_MODELS_FILE, _describe(backbone))
    else:
        (folder / BASE_MODELS_FILE).unlink(missing_ok=True)


def check_base_models(
    folder: Path, backbone: Backbone, config: BackboneConfig, *, on_change: OnChange | None = None
) -> None:
    """Compare the published models with those that the policy was saved with; older policies do not say.

    Args:
        folder: of the policy.
        backbone: as it was just made.
        config: what it was made from.
        on_change: refuse, or warn and go on; None: as the environment variable `RDVLA_CHANGED_WEIGHTS` says,
            which is to refuse if it is not set.

    Raises:
        RDVLAError: a model has other weights, or prepares images or instructions in another way.
        ConfigError: there is no such choice.
    """
    choice = on_change or os.environ.get(CHANGED_WEIGHTS) or "refuse"
    known = get_args(OnChange)
    if choice not in known:
        name = "changed_weights" if on_change else CHANGED_WEIGHTS
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
    path = folder / BASE_MODELS_FILE
    if not path.is_file():
        return
    saved, now = read_object(path), _describe(backbone, just_made_from=config)
    differing = _differences(saved, now)
    if not differing:
        return
    message = (
        f"{folder} stands on {' and '.join(now['models'])}, which changed since the policy was saved: "
        f"{', '.join(differing)}. Its actions would be others. Bring back the models that it was trained with"
    )
    if choice == "refuse":
        raise RDVLAError(
            f'{message}, or load it all the same with changed_weights="warn" (on the command line: set '
            f"{CHANGED_WEIGHTS}=warn)"
        )
    warnings.warn(f"{message}.", stacklevel=3)


def _describe(backbone: Backbone, *, just_made_from: BackboneConfig | None = None) -> dict[str, Any]:
    description = {
        "models": list(backbone.base_models()),
        "weights": _weights_hash(backbone, just_made_from),
        "preparation": backbone.preparation(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(description))  # as it is read back, without tuples
    return plain


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    before, after = saved.get("preparation"), now["preparation"]
    before = before if isinstance(before, dict) else {}
    names = ["weights"] if saved.get("weights") != now["weights"] else []
    return names + sorted(name for name in before | after if before.get(name) != after.get(name))


def _weights_hash(backbone: Backbone, just_made_from: BackboneConfig | None) -> str:
    """Return the hash of the published weights, whatever a version of transformers calls them.

    Weights that were just loaded are those of their files, which this machine may know already.
    """
    prefixes = backbone.external_prefixes()
    weights = [value for name, value in backbone.state_dict().items() if name.startswith(prefixes)]
    state = tuple((value.data_ptr(), value._version) for value in weights)
    if backbone not in _known or _known[backbone][0] != state:
        if just_made_from is None or sum(value.nbytes for value in weights) < SMALL:
            found = _hash(weights)
        else:
            models = backbone.base_models()
            found = remembered(lambda: _hash(weights), models=models, config=just_made_from)
        _known[backbone] = state, found
    return _known[backbone][1]


def _hash(weights: Iterable[Tensor]) -> str:
    each = sorted(hash_tensors([("", value)]) for value in weights)
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]
