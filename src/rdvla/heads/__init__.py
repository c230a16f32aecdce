"""Action heads behind one protocol; `recurrent/model.py` is the paper in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.heads.config import HeadConfig, Level
from rdvla.heads.recurrent.config import RecurrentConfig
from rdvla.lazy import load_lazily

if TYPE_CHECKING:
    from rdvla.heads.base import ActionHead, Context, Loss, ProprioProjector, Score, absolute_error
    from rdvla.heads.recurrent.depth import ConstantDepth, DepthDistribution, LogNormalPoisson
    from rdvla.heads.recurrent.model import RecurrentDepthHead
else:
    __getattr__, __dir__ = load_lazily(__name__)

__all__ = [
    "ActionHead",
    "ConstantDepth",
    "Context",
    "DepthDistribution",
    "HeadConfig",
    "Level",
    "LogNormalPoisson",
    "Loss",
    "ProprioProjector",
    "RecurrentConfig",
    "RecurrentDepthHead",
    "Score",
    "absolute_error",
]
