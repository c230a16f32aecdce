"""Published checkpoints in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.interop.convert import Conversion, convert_published, format_report
    from rdvla.interop.published_config import ConvertOptions
    from rdvla.interop.published_head import load_published_head
    from rdvla.interop.write_back import write_published
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "Conversion",
    "ConvertOptions",
    "convert_published",
    "format_report",
    "load_published_head",
    "write_published",
]
