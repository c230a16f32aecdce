"""Runs an encoder over the rows of a dataset, and checks what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.dataset import EpisodeDataset
from rdvla.errors import ConfigError

Images = Callable[[NDArray[np.int64]], dict[str, Tensor]]
Encode = Callable[[dict[str, Tensor], list[str]], dict[str, Tensor]]


@dataclass(frozen=True)
class FeatureEncoder:
    """Computes the features of rows, batch by batch."""

    dataset: EpisodeDataset
    images: Images  # (B,) rows -> {camera: (B, H, W, 3) uint8}
    encode: Encode  # images and B instructions -> {name: (B, ...)}
    batch_size: int  # rows that `encode` gets at once
    dtype: torch.dtype  # of floating-point features, float16 or float32

    def features(self, rows: NDArray[np.int64], report: Callable[[int], None]) -> dict[str, Tensor]:
        """Features of (N,) ascending rows, name -> (N, ...) on the CPU.

        Args:
            rows: of the dataset.
            report: gets the number of rows done after each batch but the last.

        Raises:
            ConfigError: the encoder's output has the wrong number of rows, or does not fit `dtype`.
        """
        parts: list[dict[str, Tensor]] = []
        for start in range(0, len(rows), self.batch_size):
            if start:
                report(start)
            batch = rows[start : start + self.batch_size]
            with torch.no_grad():
                features = self.encode(self.images(batch), self.dataset.instructions(batch))
            parts.append({name: self._kept(name, tensor, len(batch)) for name, tensor in features.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _kept(self, name: str, tensor: Tensor, rows: int) -> Tensor:
        if tensor.shape[:1] != (rows,):
            raise ConfigError(f"the encoder's {name!r} has shape {tuple(tensor.shape)} for {rows} rows")
        tensor = tensor.detach().cpu()
        kept = tensor.to(self.dtype) if tensor.is_floating_point() else tensor
        if kept.is_floating_point() and not torch.isfinite(kept).all():
            raise ConfigError(
                f"the encoder's {name!r} is not finite in {self.dtype} (float16 ends at 65504; try float32)"
            )
        return kept
