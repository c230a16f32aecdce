"""The method: a weight-tied recurrent action head whose depth is chosen at run time."""

from rdvla.head.config import HeadConfig, Level
from rdvla.head.context import Context
from rdvla.head.depth import ConstantDepth, DepthDistribution, LogNormalPoisson
from rdvla.head.prediction import Prediction, Trace
from rdvla.head.proprio import ProprioProjector
from rdvla.head.recurrent import RecurrentDepthHead
from rdvla.head.stopping import (
    ActionChange,
    CosineChange,
    DeferredActionChange,
    FixedDepth,
    LatentChange,
    StopRule,
    parse_rule,
)

__all__ = [
    "ActionChange",
    "ConstantDepth",
    "Context",
    "CosineChange",
    "DeferredActionChange",
    "DepthDistribution",
    "FixedDepth",
    "HeadConfig",
    "LatentChange",
    "Level",
    "LogNormalPoisson",
    "Prediction",
    "ProprioProjector",
    "RecurrentDepthHead",
    "StopRule",
    "Trace",
    "parse_rule",
]
