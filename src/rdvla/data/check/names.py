"""Names of a feature's numbers, for messages and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rdvla.data.features import dimension_names


def numbered_names(feature: Mapping[str, Any] | None, size: int) -> list[str]:
    """Return a name for each of `size` numbers: its index, and the declared name if there is one."""
    declared = dimension_names({**(feature or {}), "shape": (size,)})
    return [
        f"{index} ({name})" if declared else str(index) for index, name in enumerate(declared or [""] * size)
    ]
