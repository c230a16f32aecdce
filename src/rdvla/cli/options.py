"""Kinds of options that several verbs have."""

from __future__ import annotations

from typing import Annotated

from rdvla.config import More, Number, Pairs
from rdvla.control import execution_help, stop_help

Cameras = Annotated[dict[str, str], Pairs("NAME=CAMERA", example="image=agentview")]
"""A dataset's names of cameras -> the policy's."""

NotNegative = Annotated[int, Number(at_least=0)]
AtLeastOne = Annotated[int, Number(at_least=1)]
AtLeastTwo = Annotated[int, Number(at_least=2)]
Positive = Annotated[float, Number(above=0)]
Share = Annotated[float, Number(above=0, below=1)]

StopText = Annotated[str, More(f"Stop rules: {stop_help()}.")]
SettingText = Annotated[str, More(f"Stop rules: {stop_help()}. Execution rules: {execution_help()}.")]
