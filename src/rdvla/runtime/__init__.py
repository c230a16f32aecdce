"""Runs exported policies with numpy and onnxruntime. Nothing here imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.runtime.description import Description
    from rdvla.runtime.head import OnnxHead
    from rdvla.runtime.policy import OnnxPolicy
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="runtime")

__all__ = ["Description", "OnnxHead", "OnnxPolicy"]
