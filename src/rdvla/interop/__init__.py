"""Published checkpoints in and out."""

from rdvla.interop.published_head import load_published_head

__all__ = ["load_published_head"]
