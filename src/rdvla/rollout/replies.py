"""What a policy server replied to a query of an evaluation, checked before anything is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdvla.control import ExecutionRule, FixedHorizon
from rdvla.errors import RDVLAError

DRIVEN = "correcting"  # the phase of a reply whose action is a person's, on the server's page
ENDS = ("converged", "max_depth", "deadline")  # of a query


class PolicyServerError(RDVLAError):
    """The policy server cannot be reached, or does not answer a query; the evaluation can go on later."""


@dataclass(frozen=True)
class PolicyReply:
    """A reply that can be executed."""

    actions: NDArray[np.float32]  # (n, A), those to execute before the next query
    depth: int | None  # iterations; None if the server does not say
    ended_by: str | None  # why the iterations ended; None if the server does not say
    driven: bool  # a person gave the action


def read_reply(
    reply: Mapping[str, Any],
    *,
    address: str,
    execution: ExecutionRule,
    is_ours: bool,
    action_size: int | None,
) -> PolicyReply:
    """Check a reply.

    Only a server of rdvla is believed in what it says besides the actions: in another's reply, an entry of
    the same name may mean anything.

    Args:
        reply: as it came.
        address: of the server, for messages.
        execution: how many actions of the chunk are to be executed.
        is_ours: it is a server of rdvla.
        action_size: numbers of an action, A; None: not known.

    Raises:
        PolicyServerError: an entry is missing, or it is not what it has to be.
    """
    chunk = _chunk(reply.get("actions"), address, action_size)
    told = reply if is_ours else {}
    phase = told.get("phase")
    if isinstance(phase, str) and phase == DRIVEN:
        steps = _whole(told, "execute_steps", address)
        return PolicyReply(_first(chunk, 1 if steps is None else steps, address), None, None, driven=True)
    depth, ended_by = _whole(told, "depth", address), told.get("ended_by")
    if ended_by is not None and not (isinstance(ended_by, str) and ended_by in ENDS):
        raise PolicyServerError(f"{address} sent ended_by {ended_by!r}: it is one of {', '.join(ENDS)}")
    if depth is None and execution.name != FixedHorizon.name:
        raise PolicyServerError(
            f"{address} does not say the depth of a query, which {execution.describe()} needs: "
            "give a number of actions as --execution"
        )
    steps = int(execution.horizon(np.asarray(depth or 0)))
    claimed = _whole(told, "execute_steps", address)
    if claimed is not None and claimed != steps:
        raise PolicyServerError(
            f"{address} wants {claimed} actions executed, and by {execution.describe()} it is {steps}: "
            "it does not follow the rule that it was given"
        )
    return PolicyReply(_first(chunk, steps, address), depth, ended_by, driven=False)


def _chunk(actions: Any, address: str, action_size: int | None) -> NDArray[np.float32]:
    try:
        array = np.asarray(actions)
    except ValueError as error:  # rows of several lengths
        raise PolicyServerError(
            f"{address} sent no chunk of actions, (K, A) finite numbers: {error}"
        ) from None
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        numbers = array.astype(np.float32) if array.dtype.kind in "fiu" else None
    if numbers is None or numbers.ndim != 2 or not np.isfinite(numbers).all():
        raise PolicyServerError(
            f"{address} sent no chunk of actions, (K, A) finite numbers: {array.shape} of {array.dtype}"
        )
    if action_size is not None and numbers.shape[1] != action_size:
        raise PolicyServerError(
            f"{address} sent actions of {numbers.shape[1]} numbers, and the environment takes {action_size}"
        )
    return numbers


def _first(chunk: NDArray[np.float32], steps: int, address: str) -> NDArray[np.float32]:
    if not 1 <= steps <= len(chunk):
        raise PolicyServerError(
            f"{address} sends chunks of {len(chunk)} actions, and {steps} are to be executed: "
            "give another --execution"
        )
    return chunk[:steps]


def _whole(told: Mapping[str, Any], name: str, address: str) -> int | None:
    """An entry that is a whole number from 0, or None if there is no such entry."""
    if name not in told:
        return None
    value = told[name]
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise PolicyServerError(f"{address} sent {name} {value!r}: it is a whole number")
    return int(value)
