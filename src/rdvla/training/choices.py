"""How the frames of an update are chosen: every choice is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rdvla.data.windows import WindowedOrder
from rdvla.errors import ConfigError

CHUNK = 1 << 16  # samples whose members are drawn at once
# Begin the seeds of these draws, to keep them apart from each other and from those of updates.
ORDER, MEMBERS = 0x0F0E0001, 0x0F0E0002
NO_FRAMES = "There are no training frames: the dataset is empty or every episode is held out."


@runtime_checkable
class FrameChoice(Protocol):
    """Chooses the frames that the samples of an update start at."""

    def choose(self, step: int, batch_size: int, *, generator: torch.Generator) -> Tensor:
        """Return (B,) int64 frames of update `step`; what is drawn per update comes from `generator`."""
        ...


class UniformChoice:
    """Draws uniformly, with replacement.

    Args:
        frames: (N,) dataset frames that may start a chunk.

    Raises:
        ConfigError: there are no frames.
    """

    def __init__(self, frames: Sequence[int] | Tensor) -> None:
        self._frames = torch.as_tensor(frames, dtype=torch.int64)
        if self._frames.numel() == 0:
            raise ConfigError(NO_FRAMES)

    def choose(
        self,
        step: int,  # noqa: ARG002  # of the protocol
        batch_size: int,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return (B,) int64 frames of update `step`."""
        return self._frames[torch.randint(len(self._frames), (batch_size,), generator=generator)]


class WeightedChoice:
    """Draws a dataset by its weight, then one of its frames uniformly; both with replacement.

    Args:
        members: (N_m,) frames of each dataset.
        weights: (M,) probability of each dataset, which sum to 1.
    """

    def __init__(self, members: Sequence[Tensor], weights: Sequence[float]) -> None:
        self._starts = torch.tensor([0, *np.cumsum([len(own) for own in members])[:-1]], dtype=torch.int64)
        self._sizes = torch.tensor([len(own) for own in members], dtype=torch.int64)
        self._frames = torch.cat(list(members))
        self._weights = torch.tensor(weights, dtype=torch.float64)

    def choose(
        self,
        step: int,  # noqa: ARG002  # of the protocol
        batch_size: int,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        """Return (B,) int64 frames of update `step`."""
        member = torch.multinomial(self._weights, batch_size, replacement=True, generator=generator)
        share = torch.rand(batch_size, dtype=torch.float64, generator=generator)
        index = (share * self._sizes[member]).long().clamp(max=self._sizes[member] - 1)
        return self._frames[self._starts[member] + index]


@dataclass(frozen=True)
class WindowedMember:
    """The frames of one dataset, or of several that are one, with the shards that they lie in.

    Attributes:
        frames: (N,) dataset frames that may start a chunk, at least one.
        shards: (N,) number of the shard that each lies in.
        window: shards that are open at a time.
    """

    frames: NDArray[np.int64]
    shards: NDArray[np.int64]
    window: int


class WindowedChoice:
    """Goes through the frames of a few shards at a time, every frame once per epoch.

    With weights every dataset has an order and epochs of its own, and a draw decides which of them gives the
    next sample.

    Args:
        members: one, or one for each weight.
        seed: of the run.
        weights: (M,) probability of each member, which sum to 1; None: there is one member.
    """

    def __init__(
        self, members: Sequence[WindowedMember], *, seed: int, weights: Sequence[float] | None = None
    ) -> None:
        self._frames = [member.frames for member in members]
        numbered = [np.unique(member.shards, return_inverse=True) for member in members]
        self._shards = [numbers for numbers, _ in numbered]  # without gaps -> as they are numbered outside
        self._orders = [
            WindowedOrder(inverse, window=member.window, seed=(ORDER, seed, number))
            for number, (member, (_, inverse)) in enumerate(zip(members, numbered, strict=True))
        ]
        self._seed = seed
        self._weights = None if weights is None else np.asarray(weights) / np.sum(weights)
        self._last: tuple[int, NDArray[np.int64]] | None = None  # chunk that was drawn last
        self._before = [np.zeros(len(members), dtype=np.int64)]  # samples of each member before each chunk

    def choose(
        self,
        step: int,
        batch_size: int,
        *,
        generator: torch.Generator,  # noqa: ARG002  # of the protocol
    ) -> Tensor:
        """Return (B,) int64 frames of update `step`; `generator` is left alone."""
        start = step * batch_size
        member = self._members(start, batch_size)
        frames = np.empty(batch_size, dtype=np.int64)
        for number, position in enumerate(self.positions(start)):
            own = np.flatnonzero(member == number)
            frames[own] = self._frames[number][self._orders[number].take(position, len(own))]
        return torch.from_numpy(frames)

    def open_shards(self, sample: int) -> list[int]:
        """Return the shards that are open at a sample, counted from the run's first."""
        return self._at(sample, lambda order, position: order.open_at(position))

    def next_shards(self, sample: int) -> list[int]:
        """Return the shard of each member that opens next after a sample."""
        return self._at(sample, lambda order, position: order.following(position, 1))

    def _at(self, sample: int, shards: Callable[[WindowedOrder, int], list[int]]) -> list[int]:
        found: list[int] = []
        for order, names, position in zip(self._orders, self._shards, self.positions(sample), strict=True):
            found += names[shards(order, position)].tolist()
        return found

    def positions(self, sample: int) -> list[int]:
        """Return how many samples each member has given before a sample, counted from the run's first."""
        if self._weights is None:
            return [sample]
        chunk, inside = divmod(sample, CHUNK)
        while len(self._before) <= chunk:
            drawn = self._drawn(len(self._before) - 1)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self._orders)))
        counts = self._before[chunk] + np.bincount(self._drawn(chunk)[:inside], minlength=len(self._orders))
        found: list[int] = counts.tolist()
        return found

    def _members(self, start: int, count: int) -> NDArray[np.int64]:
        if self._weights is None:
            return np.zeros(count, dtype=np.int64)
        chunks = range(start // CHUNK, (start + count - 1) // CHUNK + 1)
        drawn = np.concatenate([self._drawn(chunk) for chunk in chunks])
        return drawn[start - chunks[0] * CHUNK :][:count]

    def _drawn(self, chunk: int) -> NDArray[np.int64]:
        if self._last is None or self._last[0] != chunk:
            rng = np.random.default_rng((MEMBERS, self._seed, chunk))
            self._last = chunk, rng.choice(len(self._orders), size=CHUNK, p=self._weights)
        return self._last[1]
