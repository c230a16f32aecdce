"""Kinds of options that several verbs have."""

from __future__ import annotations

from typing import Annotated

from rdvla.config import Pairs

Cameras = Annotated[dict[str, str], Pairs("NAME=CAMERA", example="image=agentview")]
"""A dataset's names of cameras -> the policy's."""
