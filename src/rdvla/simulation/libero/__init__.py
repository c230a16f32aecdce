"""LIBERO."""
