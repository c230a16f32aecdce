"""Export policies and heads as ONNX graphs with the iteration inside, or heads as native code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.export.folder import Report
    from rdvla.export.to_aoti import example_context, export_compiled_head
    from rdvla.export.to_onnx import export_head, export_policy
else:
    __getattr__, __dir__ = load_lazily(__name__, extra="export")

__all__ = [
    "Report",
    "example_context",
    "export_compiled_head",
    "export_head",
    "export_policy",
]
