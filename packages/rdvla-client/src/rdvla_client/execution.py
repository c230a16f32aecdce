"""How many actions of a chunk a robot executes, and who decides it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdvla_client.errors import UnsupportedError, WireError


def driven_by_person(reply: Mapping[str, Any]) -> bool:
    """Whether a reply of rdvla's server is what a person wants now, not what the policy planned."""
    phase = reply.get("phase")
    return isinstance(phase, str) and phase != "autonomous" and "execute_steps" in reply


@dataclass(frozen=True)
class Execution:
    """An execution rule as the robot applies it."""

    actions: int | None = None  # always the same number; None: the server says it with each reply
    told: str | None = None  # rule that the server is told
    until_next: bool = False  # the chunk runs until the next one is there, at most to its end

    @classmethod
    def read(cls, text: str | int, *, options: frozenset[str]) -> Execution:
        """Read ``server``, ``until_next``, ``fixed:N`` (or N), or a rule that the server knows.

        Args:
            text: the rule.
            options: that the server understands.

        Raises:
            UnsupportedError: the server is none of rdvla, so it cannot apply this rule.
            ValueError: N is no whole number above 0.
        """
        written = str(text).strip()
        name, _, number = written.partition(":")
        if written.isdecimal():
            name, number = "fixed", written
        if name == "fixed":
            if not number.isdecimal() or int(number) < 1:
                raise ValueError(f"execution='fixed:N' takes a whole number above 0, got {text!r}")
            return cls(actions=int(number), told=f"fixed:{int(number)}" if "execution" in options else None)
        if written == "until_next":
            return cls(until_next=True)
        if "execution" not in options:
            raise UnsupportedError(
                f"this server decides nothing about execution, so execution={text!r} is not possible; "
                "give execution='fixed:N' or 'until_next'"
            )
        return cls(told=None if written == "server" else written)

    def horizon(self, reply: Mapping[str, Any], chunk_size: int) -> int:
        """Return how many actions of a chunk to execute, 1 to `chunk_size`.

        While a person drives the robot, the server decides, whatever the rule.

        Raises:
            WireError: the server should have said it and did not.
            UnsupportedError: the rule wants more actions than a chunk has.
        """
        driven = driven_by_person(reply)
        if self.until_next and not driven:
            return chunk_size
        own = None if driven else self.actions
        if own is not None and own > chunk_size:
            raise UnsupportedError(
                f"execution='fixed:{own}' asks for more actions than a chunk has: {chunk_size}"
            )
        steps = reply.get("execute_steps") if own is None else own
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise WireError(f"the server's reply has no valid execute_steps, got {steps!r}")
        return min(steps, chunk_size)
