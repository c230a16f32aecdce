"""Heads as native code that was compiled ahead of time (AOTInductor), and what loads it."""
