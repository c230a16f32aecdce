"""What an exported policy or head returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """One action chunk per sample, and how it came about."""

    actions: NDArray[np.float32]  # (B, K, A); the robot's units from a policy, normalised from a head
    depth: NDArray[np.int64]  # (B,), k*: the number of iterations used
    converged: NDArray[np.bool_]  # (B,) the stop rule was satisfied; False where the maximum depth ended it
    state: NDArray[np.float32]  # (B, K, D), the final latent state, from which a next query may start
