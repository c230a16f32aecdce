"""The numbering of frames: which episode each belongs to, and which frame its image was captured at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rdvla.errors import ConfigError

Frames = ArrayLike  # (B,) frame numbers: an array, a CPU tensor, a range or a list


class FrameNumbers:
    """N frames in E episodes that follow each other without gaps.

    Attributes:
        start: (E,) first frame of each episode.
        stop: (E,) the frame after its last.
        captured_at: (N,) the frame that each frame's image was new at: itself, or an earlier one if the image
            is held.
    """

    def __init__(self, lengths: NDArray[np.int64], is_new: NDArray[np.bool_] | None) -> None:
        """Number the frames.

        Args:
            lengths: (E,) number of frames of each episode.
            is_new: (N,) whether the cameras took a new image; None: in every frame.
        """
        self.stop = np.cumsum(lengths)
        self.start = self.stop - lengths
        self.captured_at = np.arange(len(self), dtype=np.int64)
        if is_new is not None:
            is_new = is_new.copy()
            is_new[self.start] = True  # no image is held over from the episode before
            self.captured_at = np.maximum.accumulate(np.where(is_new, self.captured_at, 0))

    def __len__(self) -> int:
        return int(self.stop[-1])

    @property
    def episode(self) -> NDArray[np.int64]:
        """(N,) episode of each frame."""
        return np.repeat(np.arange(len(self.start)), self.stop - self.start)

    def checked(self, frames: Frames) -> NDArray[np.int64]:
        """Return (B,) frames as an array; raise ConfigError if one does not exist."""
        numbers = np.asarray(frames, dtype=np.int64).reshape(-1)
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise ConfigError(
                f"frame {int(numbers.max())} or {int(numbers.min())} is not in 0..{len(self) - 1}"
            )
        return numbers

    def episode_of(self, frames: Frames) -> NDArray[np.int64]:
        """Return the episode of each of (B,) frames."""
        return np.searchsorted(self.stop, self.checked(frames), side="right").astype(np.int64)

    def window(self, frames: Frames, offsets: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return frames around each frame, never from another episode.

        Args:
            frames: (B,).
            offsets: W distances in control steps.

        Returns:
            (B, W) frames, the episode's first or last one beyond its ends; (B, W) whether it lies beyond.
        """
        numbers = self.checked(frames)
        episode = self.episode_of(numbers)
        wanted = numbers[:, None] + np.asarray(offsets, dtype=np.int64)
        first, last = self.start[episode][:, None], self.stop[episode][:, None] - 1
        return np.clip(wanted, first, last), (wanted < first) | (wanted > last)

    def of_episodes(
        self, episodes: Sequence[int] | NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the chosen episodes, ascending (None: all), and their frames.

        Raises:
            ConfigError: no episode is chosen, or one does not exist.
        """
        chosen = np.arange(len(self.start)) if episodes is None else np.unique(np.asarray(episodes, np.int64))
        if len(chosen) == 0 or chosen[0] < 0 or chosen[-1] >= len(self.start):
            raise ConfigError(
                f"episodes must be some of 0..{len(self.start) - 1}, got {chosen.tolist()[:10]}"
            )
        return chosen, np.concatenate([np.arange(self.start[e], self.stop[e]) for e in chosen])

    def every(self, frames: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Keep the first of each episode's frames and then every `count`-th.

        Args:
            frames: (B,) ascending.
            count: 1 keeps all.
        """
        episode = self.episode_of(frames)
        number_in_episode = np.arange(len(frames)) - np.searchsorted(episode, episode)
        kept: NDArray[np.int64] = frames[number_in_episode % count == 0]
        return kept
