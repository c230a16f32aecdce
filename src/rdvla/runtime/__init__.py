"""Exported policies, run with numpy and onnxruntime. Nothing here imports torch."""

from rdvla.runtime.description import Description
from rdvla.runtime.head import OnnxHead
from rdvla.runtime.policy import OnnxPolicy
from rdvla.runtime.prediction import Prediction
from rdvla.runtime.stop import Stop

__all__ = ["Description", "OnnxHead", "OnnxPolicy", "Prediction", "Stop"]
