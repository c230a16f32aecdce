"""Where a policy runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from rdvla.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu"]


def choose_device(name: str) -> torch.device:
    """Return the device called `auto` (an accelerator if there is one) or `cpu`.

    Raises:
        ConfigError: there is no such name.
    """
    import torch

    if name not in get_args(Device):
        raise ConfigError(f"device must be one of {', '.join(get_args(Device))}, got {name!r}")
    found = torch.accelerator.current_accelerator(check_available=True) if name == "auto" else None
    return found or torch.device("cpu")
