"""Checks of values in published JSON files, before anything is computed with them."""

from __future__ import annotations

import sys
from typing import TypeGuard


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; true and false are none."""
    return (is_whole(value) or isinstance(value, float)) and abs(value) <= sys.float_info.max


def are_numbers(values: object) -> TypeGuard[list[float]]:
    """Whether a value is a list of finite numbers."""
    return isinstance(values, list) and all(is_number(value) for value in values)
