"""Actions and proprioception between real units and [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.errors import RDVLAError, nearest

Statistics = Mapping[str, Mapping[str, Sequence[float]]]
"""Feature -> statistic -> a number per dimension, as in a LeRobot dataset's stats.json."""


@dataclass(frozen=True)
class Normalizer:
    """Maps the 1st..99th percentile of each dimension linearly to [-1, 1] and back (paper, training section).

    Dimensions in `keep` (a gripper command) are left as they are. A dimension that never changed in the data
    is only shifted: it maps to 0 and back to its constant.

    Published LIBERO policies see a gripper command as its opening: 1 is open, 0 closed. A dimension in
    `opening` is -1 (open) to 1 (close) outside, and `unnormalize` rounds it to -1 or 1.
    """

    low: Tensor  # (N,) 1st percentile
    high: Tensor  # (N,) 99th percentile
    keep: tuple[int, ...] = ()
    clip: bool = False  # normalised values are cut to [-1, 1]
    opening: tuple[int, ...] = ()

    @staticmethod
    def from_statistics(
        statistics: Statistics,
        feature: str,
        *,
        size: int,
        keep: Sequence[int] = (),
        clip: bool = False,
        opening: Sequence[int] = (),
    ) -> Normalizer:
        """Build from the quantiles `q01` and `q99` of a feature.

        Args:
            statistics: of the data.
            feature: such as "action".
            size: N.
            keep: dimensions that are not scaled.
            clip: cut normalised values to [-1, 1].
            opening: dimensions of `keep` that hold a gripper's opening, see the class.

        Raises:
            RDVLAError: the feature or a quantile is missing, has another size, or is not finite.
        """
        if not isinstance(statistics.get(feature), Mapping):
            raise RDVLAError(
                f"there are no statistics for {feature!r}, which the policy needs to normalise it; "
                f"statistics are given for {sorted(statistics)}.{nearest(feature, statistics)}"
            )
        bounds = []
        for quantile in ("q01", "q99"):
            values = statistics[feature].get(quantile)
            if values is None:
                raise RDVLAError(
                    f"the statistics of {feature!r} lack {quantile!r}; recompute them with quantiles"
                )
            bounds.append(_finite(values, size=size, name=f"{quantile!r} of {feature!r}"))
        if (bounds[0] > bounds[1]).any():
            raise RDVLAError(f"'q01' of {feature!r} exceeds its 'q99': recompute the statistics")
        outside = [dim for dim in keep if not 0 <= dim < size]
        if outside:
            raise RDVLAError(
                f"cannot keep dimension {outside[0]} of {feature!r}, which has {size} dimensions"
            )
        return Normalizer(bounds[0], bounds[1], keep=tuple(keep), clip=clip, opening=tuple(opening))

    def normalize(self, values: Tensor) -> Tensor:
        """(..., N) real units -> (..., N) normalised; values outside the percentiles leave [-1, 1]."""
        centre, scale = self._centre_and_scale(values)
        normalized = (values - centre) / scale
        if self.opening:
            grippers = list(self.opening)
            normalized[..., grippers] = 1 - values[..., grippers].clamp(0, 1)
        return normalized.clamp(-1, 1) if self.clip else normalized

    def unnormalize(self, values: Tensor) -> Tensor:
        """(..., N) normalised -> (..., N) real units: inverse of `normalize`; -sign(2 g - 1) if `opening`."""
        centre, scale = self._centre_and_scale(values)
        real = values * scale + centre
        if self.opening:
            grippers = list(self.opening)
            real[..., grippers] = -torch.sign(2 * values[..., grippers] - 1)
        return real

    def _centre_and_scale(self, like: Tensor) -> tuple[Tensor, Tensor]:
        centre, scale = (self.high + self.low) / 2, (self.high - self.low) / 2
        scale = torch.where(scale > 1e-6, scale, torch.ones_like(scale))
        kept = list(self.keep)
        centre[kept], scale[kept] = 0.0, 1.0
        return centre.to(like), scale.to(like)


def _finite(values: Sequence[float], *, size: int, name: str) -> Tensor:
    try:
        numbers = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):  # for texts, nulls, ragged lists
        numbers = torch.empty(0)
    if numbers.shape != (size,) or not numbers.isfinite().all():
        raise RDVLAError(f"{name} must be {size} finite numbers, got {values}")
    return numbers
