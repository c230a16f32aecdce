"""Heads as native code that was compiled ahead of time (AOTInductor): what it consists of and how it loads."""
