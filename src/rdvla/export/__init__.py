"""Policies and heads as ONNX graphs, with the iteration and its stop rules inside; run by `rdvla.runtime`."""

from rdvla.export.folder import Report, export_head, export_policy

__all__ = ["Report", "export_head", "export_policy"]
