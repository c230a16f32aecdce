"""Heads and backbones as LeRobot's command line chooses them.

LeRobot fills an option that is given in part from the defaults of its class. The default head of a policy is
smaller than its class says, so it is a choice of its own here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, get_type_hints

from rdvla.backbone import BackboneConfig
from rdvla.heads import HeadConfig, RecurrentConfig
from rdvla.policy.config import compact_head

SMALL = "small"


def _small_head() -> type[RecurrentConfig]:
    hints, default = get_type_hints(RecurrentConfig), compact_head()
    options = [
        (each.name, hints[each.name], field(default=getattr(default, each.name)))
        for each in fields(RecurrentConfig)
    ]
    made: type[RecurrentConfig] = make_dataclass("SmallHead", options, bases=(RecurrentConfig,), frozen=True)
    made.__doc__ = "The recurrent head that goes with the compact backbone."
    return made


SmallHead = _small_head()


def as_head(head: HeadConfig) -> HeadConfig:
    """Return a head as rdvla knows it: the small one is a recurrent head."""
    if not isinstance(head, SmallHead):
        return head
    return RecurrentConfig(**{each.name: getattr(head, each.name) for each in fields(RecurrentConfig)})


class _Options:
    """Classes by their type, as LeRobot's parser asks for them.

    The parser passes over a class whose parent offers choices already. So `get_known_choices` is only
    declared here.
    """

    default: ClassVar[str]  # type of options that name none
    get_known_choices: ClassVar[Callable[[], dict[str, Any]]]

    @classmethod
    def get_choice_class(cls, name: str) -> Any:
        """Return the class of a type."""
        return cls.get_known_choices()[name]

    @classmethod
    def get_choice_name(cls, subcls: type[Any]) -> str:
        """Return the type of a class."""
        choices = cls.get_known_choices()
        names = [name for name, choice in choices.items() if choice is subcls]
        if not names:
            raise ValueError(f"{subcls.__name__} is none of {', '.join(choices)}")
        return names[0]

    @classmethod
    def default_choice_name(cls) -> str:
        """Return the type of options that name none."""
        return cls.default


class HeadOptions(_Options):
    """rdvla's heads; options without a type change the small head."""

    default = SMALL

    @classmethod
    def get_known_choices(cls) -> dict[str, Any]:
        """Return every head by its type."""
        return {SMALL: SmallHead, **HeadConfig.get_known_choices()}


class BackboneOptions(_Options):
    """rdvla's backbones; options without a type change the compact one."""

    default = "compact"

    @classmethod
    def get_known_choices(cls) -> dict[str, Any]:
        """Return every backbone by its type."""
        return dict(BackboneConfig.get_known_choices())


# Types of the configuration's fields: their values are rdvla's configurations, LeRobot's parser sees options.
if TYPE_CHECKING:
    Head: TypeAlias = HeadConfig
    Backbone: TypeAlias = BackboneConfig
else:
    Head, Backbone = HeadOptions, BackboneOptions
