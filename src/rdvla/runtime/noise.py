"""Initial latent states without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def truncated_normal(
    shape: tuple[int, ...], *, std: float, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Normal numbers of mean 0 cut at three standard deviations, decided by the generator's state.

    The distribution is that of `RecurrentDepthHead.initial_state`; the numbers are not, as numpy has other
    generators than torch.
    """
    numbers = generator.standard_normal(shape)
    while (outside := np.abs(numbers) > 3).any():
        numbers[outside] = generator.standard_normal(int(outside.sum()))
    return (std * numbers).astype(np.float32)
