"""One way of running a policy. In a file of its own, so that environment workers need not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """How deep the policy thinks, and how much of a chunk is executed."""

    rule: str  # "fixed" or "action_change:0.001", say; with "@shifted", say, where S_0 is not noise
    depth: int | None  # iterations under the fixed rule, None under an adaptive one
    execution: str  # e.g. "fixed:8"

    @property
    def rule_text(self) -> str:
        """The stop rule and the start as `rdvla.head.split_start` reads them."""
        return self.rule if self.depth is None else str(self.depth) + self._start

    @property
    def name(self) -> str:
        """What `rdvla.evaluation.find_setting` reads it from, e.g. ``8/fixed:8``."""
        return f"{self.rule_text}/{self.execution}"

    def describe(self) -> str:
        """A short name for tables, e.g. ``depth 8`` or ``action_change:0.001``."""
        return self.rule if self.depth is None else f"depth {self.depth}{self._start}"

    @property
    def _start(self) -> str:
        _, at, start = self.rule.partition("@")
        return at + start
