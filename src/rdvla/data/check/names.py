"""Names of a feature's numbers, for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def dimension_names(feature: Mapping[str, Any] | None, size: int) -> list[str]:
    """Return a name for each of `size` numbers: its index, and the declared name if there is one.

    Names may be a list, a list in a list, or a dictionary of lists ({"motors": [...]}).
    """
    names = _flat((feature or {}).get("names"))
    if len(names) != size:
        return [str(index) for index in range(size)]
    return [f"{index} ({name})" for index, name in enumerate(names)]


def _flat(names: Any) -> list[str]:
    if isinstance(names, dict):
        names = list(names.values())
    if isinstance(names, str):
        return [names]
    return [text for each in names for text in _flat(each)] if isinstance(names, Sequence) else []
