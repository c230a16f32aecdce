"""What every backbone's configuration answers for itself. Imports no torch, as the command line needs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import draccus

from rdvla.errors import ConfigError, require_range

if TYPE_CHECKING:
    from rdvla.backbone.base import Backbone
    from rdvla.heads import Level

LARGEST_IMAGE = 384  # pixels; published image encoders take 224 to 384

MOST_LAYERS = 256  # more would be built for minutes
LARGEST = 2**20  # of a size; a file is compared with its weights besides
LARGEST_RANK = 4096  # of LoRA

Where = Literal["none", "language", "all"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class BackboneConfig(draccus.ChoiceRegistry, ABC):  # type: ignore[no-untyped-call]
    """Base of the backbones' configurations; ``type`` in a file or on the command line names a class.

    Attributes:
        tuning_fields: fields that say how a backbone is trained further, not what its weights are.
        naming_fields: fields that say where published weights are found, not what they are.
    """

    tuning_fields: ClassVar[tuple[str, ...]] = ()
    naming_fields: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def make(self) -> Backbone:
        """Build the backbone; weights that are not published are random.

        Raises:
            ConfigError: a setting does not fit a published model, or the model cannot be found.
            MissingExtraError: an optional package is not installed.
        """

    @abstractmethod
    def check(self, *, cameras: int, image_size: int, levels: Sequence[Level]) -> None:
        """Check that the backbone fits its policy, before gigabytes are loaded.

        Args:
            cameras: how many the policy has.
            image_size: pixels, square, of the fitted images; 0: still open, as is the number of cameras.
            levels: that the head reads.

        Raises:
            ConfigError: it does not fit; names both options.
        """

    def fitted(self, *, cameras: int, image_size: int, environment_state_dim: int) -> Self:  # noqa: ARG002
        """Return the configuration with the sizes that it leaves open taken from the policy and the dataset.

        Args:
            cameras: how many the policy has.
            image_size: pixels, square, of the fitted images.
            environment_state_dim: E, numbers of the environment's state that is trained to be read; 0: none.
        """
        return self

    def choose_image_size(self, recorded: Sequence[tuple[int, int]]) -> int:
        """Return a size, in pixels, to fit images to that were recorded with these (height, width).

        The default is for models that scale images themselves: the longest side, up to `LARGEST_IMAGE`.
        """
        return min(max(max(size) for size in recorded), LARGEST_IMAGE)

    def without_published(self) -> Self | None:
        """Return the same without published models, whose sizes these fields do not say; None: it is one.

        The default is for backbones without any, and returns the configuration itself.
        """
        return self

    @abstractmethod
    def in_float32(self) -> Self:
        """Return the same backbone without bfloat16, for machines and formats that lack it."""


@dataclass(frozen=True)
class LoraSettings:
    """How a published model is fine-tuned; the defaults are the paper's."""

    where: Where = "language"  # linear layers that are adapted: no, the language model's, or all of them
    rank: int = 64  # r, inner width of the trained pair of matrices
    alpha: int = 128  # what the pair adds is multiplied by alpha / r
    dropout: float = 0.0  # share of the pair's inputs that are dropped in training

    @property
    def scale(self) -> float:
        """Factor of a pair's product, alpha / r."""
        return self.alpha / self.rank

    def __post_init__(self) -> None:
        if self.where not in ("none", "language", "all"):
            raise ConfigError(f"lora.where must be 'none', 'language' or 'all', got {self.where!r}")
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, got {self.rank}")
        require_range("lora.rank", self.rank, most=LARGEST_RANK)
        if self.alpha < 1:
            raise ConfigError(f"lora.alpha must be at least 1, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must be at least 0 and below 1, got {self.dropout}")


def must_match(name: str, value: int, other_name: str, other: int) -> None:
    """Raise `ConfigError` with both options if their values differ."""
    if value != other:
        raise ConfigError(f"{name} ({value}) must equal {other_name} ({other})")


def check_levels(levels: Sequence[int], *, count: int | None = None) -> None:
    """Check the hidden states that a backbone shall yield: 0 is the embeddings, n follows layer n (from 1).

    Args:
        levels: from the configuration.
        count: layers of the language model; None: not known yet.

    Raises:
        ConfigError: a level is named twice or does not exist, or none lies above the embeddings.
    """
    if not levels or min(levels) < 0 or max(levels) < 1:
        raise ConfigError(
            "backbone.levels must name hidden states by number, from 0 (the embeddings), one of them at "
            f"least 1, got {list(levels)}"
        )
    if len(set(levels)) < len(levels):
        raise ConfigError(f"backbone.levels must name each level once, got {list(levels)}")
    if count is not None and max(levels) > count:
        raise ConfigError(
            f"backbone.levels names hidden state {max(levels)}, but the model has {count} layers: "
            f"0 (the embeddings) to {count}"
        )


def check_head_levels(wanted: Sequence[Level], *, levels: Sequence[int]) -> None:
    """Check that the head reads only hidden states that the backbone yields.

    Raises:
        ConfigError: it reads another one.
    """
    unknown = [level for level in wanted if level not in levels]
    if unknown:
        raise ConfigError(
            f"the head reads the level {unknown[0]!r}, backbone.levels are {list(levels)}: name the head's "
            "levels (head.prelude, head.core, head.coda) by these numbers"
        )
