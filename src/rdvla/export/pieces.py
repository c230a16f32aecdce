"""The pieces of an exported policy, each a function of tensors that calls the policy's own methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rdvla.export.trace import Example, Part
from rdvla.head import Context, RecurrentDepthHead
from rdvla.head.stopping import action_change, cosine_change, latent_change
from rdvla.runtime.stop import KINDS

BATCH = 2  # of the examples
LIMITS = {  # what the loop runs by, and the type of each
    "rule": torch.int64,
    "threshold": torch.float32,
    "min_depth": torch.int64,
    "max_depth": torch.int64,
}
READS = "reads_actions"  # whether the rule does
GOING = "keep_going"  # whether any sample does
CARRIED = ("running", "converged", "depth", "state", "actions")  # from one iteration to the next


@dataclass(frozen=True)
class Observed:
    """The way from what a graph takes to the head's context, and from its actions to what goes out."""

    inputs: Mapping[str, Example]
    context: Callable[..., Context]  # of tensors, in the order of `inputs`
    finish: Callable[[Tensor], Tensor]  # actions (B, K, A) in normalised units -> as they go out


@dataclass(frozen=True)
class Pieces:
    """What `rdvla.export.join` puts together."""

    parts: Mapping[str, Part]  # encode, iterate, decode, advance, finish
    inputs: Mapping[str, Example]  # of the whole
    carried: Mapping[str, Example]  # of the loop
    encoded: tuple[str, ...]  # names of the encoded context's tensors


def make_pieces(head: RecurrentDepthHead, observed: Observed) -> Pieces:
    """Describe everything that the loop is made of.

    encode: inputs -> encoded context and the start of the loop. iterate: state -> next state. decode: state
    -> actions. advance: who stops. finish: the actions as they go out.
    """
    config = head.config
    state = _batch_of(torch.zeros(BATCH, config.chunk_size, config.hidden_dim))
    actions = _batch_of(torch.zeros(BATCH, config.chunk_size, config.action_dim))
    flags, counts = (_batch_of(torch.ones(BATCH, dtype=dtype)) for dtype in (torch.bool, torch.int64))
    carried = dict(zip(CARRIED, (flags, flags, counts, state, actions), strict=True))
    limits = {name: Example(torch.tensor(1, dtype=dtype), {}) for name, dtype in LIMITS.items()}
    with torch.no_grad():
        template = head.encode(observed.context(*(example.tensor for example in observed.inputs.values())))
    encoded = {f"encoded.{i}": _batch_of(leaf) for i, leaf in enumerate(_leaves(template))}

    def encode(initial_state: Tensor, rule: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        empty = initial_state.new_zeros(len(initial_state), config.chunk_size, config.action_dim)
        running = torch.ones_like(initial_state[:, 0, 0], dtype=torch.bool)
        start = (running, ~running, running.long() * 0, empty, rule == KINDS.index("action_change"))
        return (*_leaves(head.encode(observed.context(*inputs))), *start)

    def iterate(state: Tensor, *tensors: Tensor) -> Tensor:
        return head.iterate(state, _fill(template, iter(tensors)))

    def decode(state: Tensor, *tensors: Tensor) -> Tensor:
        return head.decode(state, _fill(template, iter(tensors)))

    start = ("running", "converged", "depth", "actions", READS)
    stops = {name: limits[name] for name in ("rule", "threshold", "min_depth")}
    changed = {"next_state": state, "next_actions": actions}
    return Pieces(
        parts={
            "encode": Part(
                encode,
                {"initial_state": state, "rule": limits["rule"], **observed.inputs},
                (*encoded, *start),
            ),
            "iterate": Part(iterate, {"state": state, **encoded}, ("next_state",)),
            "decode": Part(decode, {"state": state, **encoded}, ("actions",)),
            "advance": Part(
                advance,
                {"iteration": Example(torch.tensor(0), {}), **stops, **carried, **changed},
                (GOING, *CARRIED),
            ),
            "finish": Part(observed.finish, {"normalized": actions}, ("actions",)),
        },
        inputs={**observed.inputs, "initial_state": state, **limits},
        carried=carried,
        encoded=tuple(encoded),
    )


def advance(
    iteration: Tensor, rule: Tensor, threshold: Tensor, min_depth: Tensor, *values: Tensor
) -> tuple[Tensor, ...]:
    """What `rdvla.head.solver` decides after an iteration: whether any sample goes on, and `CARRIED`.

    Args:
        iteration: from 0.
        rule: its place in `KINDS`.
        threshold: of the rule.
        min_depth: of the rule.
        values: `CARRIED` from before, next state (B, K, D), and its actions (B, K, A) if the rule reads them.
    """
    running, converged, depth, state, actions, next_state, next_actions = values
    changes = {
        "action_change": action_change(actions, next_actions),
        "latent_change": latent_change(state, next_state),
        "cosine": cosine_change(state, next_state),
    }
    satisfied = rule == KINDS.index("fixed")
    for kind, change in changes.items():
        satisfied = satisfied | ((rule == KINDS.index(kind)) & (change < threshold))
    stopped = running & satisfied & (iteration + 1 >= min_depth)
    still = running & ~stopped
    going = running[:, None, None]  # what has stopped keeps its result
    return (
        still.any(),
        still,
        converged | stopped,
        depth + running,
        torch.where(going, next_state, state),
        torch.where(going, next_actions, actions),
    )


def _batch_of(tensor: Tensor) -> Example:
    return Example(tensor, {0: "batch"})


def _leaves(value: Any) -> Iterator[Tensor]:
    """The tensors of nested dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name))


def _fill(value: Any, rest: Iterator[Tensor]) -> Any:
    """The value with other tensors in the place of its own."""
    if isinstance(value, Tensor):
        return next(rest)
    if isinstance(value, tuple):
        items = [_fill(item, rest) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{field.name: _fill(getattr(value, field.name), rest) for field in fields(value)}
        )
    return value
