"""Actions and proprioception between real units and [-1, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rdvla.errors import RDVLAError, nearest

Statistics = Mapping[str, Mapping[str, Sequence[float]]]
"""Feature -> statistic -> a number per dimension, as in a LeRobot dataset's stats.json."""


RARE = 0.1  # a dimension that spends 98% of its frames within this share of its range is scaled by the range
OLD_CONSTANT = 1e-6  # policies without bounds took this for the width of a constant, in any unit
NARROW = 5e-4  # no dimension is scaled by less than this share of the largest scale in its feature


def bounds(
    entry: Mapping[str, Sequence[float]], scaling: Literal["quantiles", "min_max", "mean_std"]
) -> tuple[list[float], list[float]]:
    """Return what each dimension of a feature maps to -1 and to 1.

    A dimension that hardly ever moves (a button, a joint at rest with encoder noise) would be blown up by its
    quantiles or its standard deviation. It is scaled by its whole range, and never by less than `NARROW` of
    the feature's largest scale. A constant stays a constant: both bounds are the same.

    Args:
        entry: the feature's statistics, N numbers each: min, max, and q01 and q99, or mean and std.
        scaling: the 1st and 99th percentile (paper), the smallest and largest value, or mean -+ std.
    """
    values = {name: torch.tensor(list(numbers), dtype=torch.float64) for name, numbers in entry.items()}
    smallest, largest = values["min"], values["max"]
    if scaling == "mean_std":
        low, high = values["mean"] - values["std"], values["mean"] + values["std"]
    else:
        low, high = (values["q01"], values["q99"]) if scaling == "quantiles" else (smallest, largest)
    rare = high - low < RARE * (largest - smallest)
    low, high = torch.where(rare, smallest, low), torch.where(rare, largest, high)
    scale = (high - low) / 2
    moving = scale[scale > 0]
    if len(moving):
        # Of the largest scale, not of a typical one: all joints of an idle arm may be at rest.
        least = torch.full_like(scale, NARROW * float(moving.max()))
        narrow, centre = (scale > 0) & (scale < least), (high + low) / 2
        low, high = torch.where(narrow, centre - least, low), torch.where(narrow, centre + least, high)
    return low.tolist(), high.tolist()


@dataclass(frozen=True)
class Normalizer:
    """Maps an interval of each dimension linearly to [-1, 1] and back.

    The interval is that of `bounds`; older and published policies have none, and take the 1st and 99th
    percentile (paper, training section).

    Dimensions in `keep` (a gripper command) are left as they are. A dimension that never changed in the data
    is only shifted: it maps to 0 and back to its constant.

    Published LIBERO policies see a gripper command as its opening: 1 is open, 0 closed. A dimension in
    `opening` is -1 (open) to 1 (close) outside, and `unnormalize` rounds it to -1 or 1.
    """

    low: Tensor  # (N,) maps to -1
    high: Tensor  # (N,) maps to 1
    keep: tuple[int, ...] = ()
    clip: bool = False  # normalised values are cut to [-1, 1]
    opening: tuple[int, ...] = ()
    constant: float = 0.0  # a dimension whose interval is no wider than twice this is a constant

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
        """Build from the bounds `low` and `high` of a feature, or from its quantiles `q01` and `q99`.

        Args:
            statistics: of the data.
            feature: such as "action".
            size: N.
            keep: dimensions that are not scaled.
            clip: cut normalised values to [-1, 1].
            opening: dimensions of `keep` that hold a gripper's opening, see the class.

        Raises:
            RDVLAError: the feature or a bound is missing, has another size, or is not finite.
        """
        if size == 0:
            return Normalizer(torch.empty(0), torch.empty(0))
        if not isinstance(statistics.get(feature), Mapping):
            raise RDVLAError(
                f"there are no statistics for {feature!r}, which the policy needs to normalise it; "
                f"statistics are given for {sorted(statistics)}.{nearest(feature, statistics)}"
            )
        names = ("low", "high") if "low" in statistics[feature] else ("q01", "q99")
        ends = []
        for name in names:
            values = statistics[feature].get(name)
            if values is None:
                raise RDVLAError(
                    f"the statistics of {feature!r} lack {name!r}; recompute them with quantiles"
                )
            ends.append(_finite(values, size=size, name=f"{name!r} of {feature!r}"))
        if (ends[0] > ends[1]).any():
            raise RDVLAError(
                f"{names[0]!r} of {feature!r} exceeds its {names[1]!r}: recompute the statistics"
            )
        outside = [dim for dim in keep if not 0 <= dim < size]
        if outside:
            raise RDVLAError(
                f"cannot keep dimension {outside[0]} of {feature!r}, which has {size} dimensions"
            )
        return Normalizer(
            ends[0],
            ends[1],
            keep=tuple(keep),
            clip=clip,
            opening=tuple(opening),
            constant=0.0 if names[0] == "low" else OLD_CONSTANT,
        )

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
        scale = torch.where(scale > self.constant, scale, torch.ones_like(scale))
        kept = list(self.keep)
        centre[kept], scale[kept] = 0.0, 1.0
        return centre.to(like), scale.to(like)


def policy_normalizers(
    statistics: Statistics,
    *,
    action_dim: int,
    state_dim: int,
    unscaled_actions: Sequence[int] = (),
    gripper_opening: Sequence[int] = (),
    clip_state: bool = False,
) -> tuple[Normalizer, Normalizer]:
    """Return the normalisers of a policy's actions and of its proprioception.

    Args:
        statistics: of the data.
        action_dim: A.
        state_dim: S.
        unscaled_actions: action dimensions that are not scaled.
        gripper_opening: those of them that hold a gripper's opening.
        clip_state: cut normalised proprioception to [-1, 1].

    Raises:
        RDVLAError: see `Normalizer.from_statistics`.
    """
    action = Normalizer.from_statistics(
        statistics, "action", size=action_dim, keep=unscaled_actions, opening=gripper_opening
    )
    state = Normalizer.from_statistics(statistics, "observation.state", size=state_dim, clip=clip_state)
    return action, state


def _finite(values: Sequence[float], *, size: int, name: str) -> Tensor:
    try:
        numbers = torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):  # for texts, nulls, ragged lists
        numbers = torch.empty(0)
    if numbers.shape != (size,) or not numbers.isfinite().all():
        raise RDVLAError(f"{name} must be {size} finite numbers, got {values}")
    return numbers
