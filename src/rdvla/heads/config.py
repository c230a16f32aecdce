"""What every action head's configuration says about itself. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import draccus

if TYPE_CHECKING:
    from rdvla.heads.base import ActionHead

Level = int | str
"""Name of a context level: a layer number of the backbone, or a word such as ``middle`` or ``late``."""


@dataclass(frozen=True)
class HeadConfig(draccus.ChoiceRegistry):  # type: ignore[no-untyped-call]
    """Base of the heads' configurations; ``head.type`` in a file or on the command line names one."""

    chunk_size: int = 8  # K, actions in a chunk
    action_dim: int = 7  # A, numbers in an action; in training 0: as in the dataset

    # Fields that say how a head is initialised or trained, and not what its weights mean.
    training_fields: ClassVar[tuple[str, ...]] = ()

    # What a model card calls a policy with this head, says about it, and tags it with.
    card_title: ClassVar[str] = "A vision-language-action policy"
    card_summary: ClassVar[str] = (
        "From camera images, proprioception and an instruction to a chunk of actions."
    )
    card_tags: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def default_choice_name(cls) -> str:
        """Return the type of files that name none."""
        return "recurrent"

    @abstractmethod
    def make(self) -> ActionHead:
        """Build the head with fresh weights."""

    @property
    @abstractmethod
    def levels(self) -> tuple[Level, ...]:
        """The context levels that the head reads, each once."""

    @property
    def mean_training_depth(self) -> int:
        """Iterations of an update on average; 1 for heads that do not iterate."""
        return 1

    @property
    def gradient_depth(self) -> int:
        """Iterations of an update that gradient flows through at most; 1 for heads that do not iterate."""
        return 1

    @property
    def facts(self) -> dict[str, str]:
        """What else a model card says about the head, by title."""
        return {}

    @property
    def levels_by_part(self) -> dict[str, list[Level]]:
        """The context levels by the part of the head that reads them."""
        return {"head": list(self.levels)}

    @property
    @abstractmethod
    def context_width(self) -> int:
        """C, the width of the context tokens that the head reads."""
