"""Where an iteration starts: from noise, as the method has it, or from what the query before ended with.

Successive queries of an episode see almost the same scene, so that the last state may be nearer to the next
answer than noise is. None of these is the method's; whether they save iterations or cost success is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rdvla.errors import ConfigError, nearest

StartKind = Literal["noise", "final", "midpoint", "shifted"]
KINDS: tuple[StartKind, ...] = get_args(StartKind)


@dataclass(frozen=True)
class WarmStart:
    """How S_0 of a query is made.

    - ``noise``: drawn, as in the paper;
    - ``final``: the state that the query before ended with;
    - ``midpoint``: the mean of both;
    - ``shifted``: the final state moved up by the actions executed since, so that each token stands for the
      moment that it did; tokens beyond its end are noise.
    """

    kind: StartKind = "noise"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                f"unknown start {self.kind!r}; it is one of {', '.join(KINDS)}.{nearest(self.kind, KINDS)}"
            )

    def start(self, noise: Tensor, previous: Tensor, executed: Tensor) -> Tensor:
        """S_0 of a query that is not the first of its episode.

        Args:
            noise: (B, K, D), drawn.
            previous: (B, K, D), the state that the query before ended with.
            executed: (B,) whole numbers, actions executed since.
        """
        if self.kind == "noise":
            return noise
        if self.kind == "final":
            return previous.clone()
        if self.kind == "midpoint":
            return (noise + previous) / 2
        chunk = noise.shape[1]
        source = torch.arange(chunk, device=noise.device) + executed.to(noise.device)[:, None]  # (B, K)
        inside = source < chunk
        moved = previous.gather(1, source.clamp(max=chunk - 1)[:, :, None].expand_as(previous))
        return torch.where(inside[:, :, None], moved, noise)


def split_start(text: str) -> tuple[str, WarmStart]:
    """Read ``RULE@START``, such as ``action_change:1e-3@shifted``: the rule's text, and the start.

    Raises:
        ConfigError: there is no such start.
    """
    rule, at, kind = text.strip().partition("@")
    return rule, WarmStart(kind if at else "noise")  # type: ignore[arg-type]  # checked by the class
