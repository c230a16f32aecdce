"""LIBERO: its tasks (no simulator needed), environment and experts."""
