"""Where a policy runs."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from rdvla.errors import ConfigError

Device = Literal["auto", "cpu"]


def choose_device(name: str) -> torch.device:
    """The device of `auto` (an accelerator where there is one) or `cpu`.

    Raises:
        ConfigError: it is called otherwise.
    """
    if name not in get_args(Device):
        raise ConfigError(f"device must be one of {', '.join(get_args(Device))}, got {name!r}")
    found = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    return found or torch.device("cpu")
