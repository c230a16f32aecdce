"""Demonstrations of scripted experts under noise, as a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.simulation.demonstrations.config import DemonstrationConfig
    from rdvla.simulation.demonstrations.generation import DemonstrationReport, generate
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="data")

__all__ = ["DemonstrationConfig", "DemonstrationReport", "generate"]
