"""Heads as native code, compiled ahead of time (AOTInductor): what it consists of and how it loads."""
