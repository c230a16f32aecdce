"""The numbering of rows: which episode each belongs to, and where its image was new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rdvla.errors import ConfigError

Rows = ArrayLike | Tensor


class RowNumbers:
    """N rows in E episodes that follow each other without gaps.

    Attributes:
        start: (E,) first row of each episode.
        stop: (E,) the row behind its last.
        fresh: (N,) the row at which each row's image was new: itself, or an earlier one when held.
    """

    def __init__(
        self, start: NDArray[np.int64], stop: NDArray[np.int64], is_new: NDArray[np.bool_] | None
    ) -> None:
        """Number the rows.

        Args:
            start, stop: as the attributes.
            is_new: (N,) where the cameras took a new image; None: in every row.
        """
        self.start, self.stop = start, stop
        self.fresh = np.arange(len(self), dtype=np.int64)
        if is_new is not None:
            is_new = is_new.copy()
            is_new[start] = True  # nothing is held over from the episode before
            self.fresh = np.maximum.accumulate(np.where(is_new, self.fresh, 0))

    def __len__(self) -> int:
        return int(self.stop[-1])

    def checked(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) rows as an array; raises ConfigError where one does not exist."""
        index = np.asarray(rows, dtype=np.int64).reshape(-1)
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise ConfigError(f"row {int(index.max())} or {int(index.min())} is not in 0..{len(self) - 1}")
        return index

    def episode_of(self, rows: Rows) -> NDArray[np.int64]:
        """(B,) episode of each row."""
        return np.searchsorted(self.stop, self.checked(rows), side="right").astype(np.int64)

    def window(self, rows: Rows, deltas: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Rows around each row, never from another episode.

        Args:
            rows: (B,).
            deltas: W offsets in steps.

        Returns:
            (B, W) rows, the episode's first or last one beyond its ends; (B, W) where that was done.
        """
        index = self.checked(rows)
        episode = self.episode_of(index)
        wanted = index[:, None] + np.asarray(deltas, dtype=np.int64)
        first, last = self.start[episode][:, None], self.stop[episode][:, None] - 1
        return np.clip(wanted, first, last), (wanted < first) | (wanted > last)

    def of_episodes(
        self, episodes: Sequence[int] | NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The chosen episodes, ascending (None: all), and their rows; raises ConfigError for unknown ones."""
        chosen = np.arange(len(self.start)) if episodes is None else np.unique(np.asarray(episodes, np.int64))
        if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= len(self.start):
            raise ConfigError(
                f"episodes must be some of 0..{len(self.start) - 1}, got {chosen.tolist()[:10]}"
            )
        return chosen, np.concatenate([np.arange(self.start[e], self.stop[e]) for e in chosen])

    def every(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Of (B,) ascending rows, the first of each episode and then every `count`-th."""
        episode = self.episode_of(rows)
        place = np.arange(len(rows)) - np.searchsorted(episode, episode)
        chosen: NDArray[np.int64] = rows[place % count == 0]
        return chosen
