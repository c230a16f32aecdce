"""The pieces of an exported policy, each a function of tensors that calls the policy's own methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rdvla.control import CHANGES, NO_LIMIT, StopLimits
from rdvla.engine.steps import HeadSteps
from rdvla.export.trace import Example, Part
from rdvla.heads import Context, RecurrentDepthHead

BATCH = 2  # of the examples
BELOW = tuple(f"below.{change}" for change in CHANGES)  # upper limits of changes, in the order of the table
LIMITS = (*BELOW, "min_depth", "max_depth")  # the stop rule of every sample, (B,) each
LAST = "last_depth"  # at which the last sample ends
MAY_STOP = "may_stop"  # which samples do, unless their actions forbid it
READINGS = "readings"  # how many states the coda decodes: none, this iteration's, or also the one before
GOING = "keep_going"  # whether any sample does
CARRIED = ("running", "converged", "depth", "state", "actions", "known")  # from one iteration to the next


@dataclass(frozen=True)
class Observed:
    """The way from what a graph takes to the head's context, and from its actions to what goes out."""

    inputs: Mapping[str, Example]
    context: Callable[..., Context]  # of tensors, in the order of `inputs`
    finish: Callable[[Tensor], Tensor]  # actions (B, K, A) in normalised units -> as they go out


@dataclass(frozen=True)
class Pieces:
    """What `rdvla.export.join` puts together."""

    parts: Mapping[str, Part]  # encode, iterate, consider, decode, advance, finish
    inputs: Mapping[str, Example]  # of the whole
    carried: Mapping[str, Example]  # of the loop
    encoded: tuple[str, ...]  # names of the encoded context's tensors


def make_pieces(head: RecurrentDepthHead, observed: Observed) -> Pieces:
    """Describe everything that the loop is made of.

    encode: inputs -> encoded context and the start of the loop. iterate: state -> next state. consider: who
    may stop, and so which states are read. decode: one of them -> actions. advance: who stops. finish: the
    actions as they go out.
    """
    config = head.config
    state = _batch_of(torch.zeros(BATCH, config.chunk_size, config.hidden_dim))
    actions = _batch_of(torch.zeros(BATCH, config.chunk_size, config.action_dim))
    flags, counts = (_batch_of(torch.ones(BATCH, dtype=dtype)) for dtype in (torch.bool, torch.int64))
    one, known = Example(torch.tensor(1), {}), Example(torch.tensor(True), {})
    limit = _batch_of(torch.ones(BATCH))
    carried = dict(zip(CARRIED, (flags, flags, counts, state, actions, known), strict=True))
    limits = dict.fromkeys(BELOW, limit) | {"min_depth": counts, "max_depth": counts}
    steps = HeadSteps(head)
    with torch.no_grad():
        template = steps.encode(observed.context(*(example.tensor for example in observed.inputs.values())))
    encoded = {f"encoded.{i}": _batch_of(leaf) for i, leaf in enumerate(_leaves(template))}

    def encode(initial_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        empty = initial_state.new_zeros(len(initial_state), config.chunk_size, config.action_dim)
        running = torch.ones_like(initial_state[:, 0, 0], dtype=torch.bool)
        start = (running, ~running, running.long() * 0, empty, ~running.any())
        return (*_leaves(steps.encode(observed.context(*inputs))), *start)

    def iterate(state: Tensor, *tensors: Tensor) -> Tensor:
        return head.iterate(state, _fill(template, iter(tensors)))

    def decode(
        number: Tensor, readings: Tensor, state: Tensor, next_state: Tensor, *tensors: Tensor
    ) -> Tensor:
        last = number + 1 == readings  # of two, the one before comes first
        return steps.decode(torch.where(last, next_state, state), _fill(template, iter(tensors)))

    start = tuple(name for name in CARRIED if name != "state")
    states = {"state": state, "next_state": state}
    read = {MAY_STOP: flags, READINGS: one, "next_state": state, "actions_before": actions}
    return Pieces(
        parts={
            "encode": Part(encode, {"initial_state": state, **observed.inputs}, (*encoded, *start)),
            "iterate": Part(iterate, {"state": state, **encoded}, ("next_state",)),
            "consider": Part(
                consider,
                {"iteration": one, "running": flags, "known": known, **states, **limits},
                (MAY_STOP, READINGS),
            ),
            "decode": Part(decode, {"number": one, READINGS: one, **states, **encoded}, ("actions",)),
            "advance": Part(
                advance,
                {"iteration": one, **carried, **read, "next_actions": actions, **limits},
                (GOING, *CARRIED),
            ),
            "finish": Part(observed.finish, {"normalized": actions}, ("actions",)),
        },
        inputs={**observed.inputs, "initial_state": state, **limits, LAST: one},
        carried=carried,
        encoded=tuple(encoded),
    )


def consider(
    iteration: Tensor, running: Tensor, known: Tensor, state: Tensor, next_state: Tensor, *limits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the samples (B,) that may stop as far as states tell, and how many states the coda decodes.

    None if no sample may or must stop. Two if actions decide and the ones before are not known.

    Args:
        iteration: from 0.
        running: (B,) the samples that have not stopped.
        known: whether the actions of the iteration before were decoded.
        state: (B, K, D). next_state: (B, K, D).
        limits: `LIMITS`, (B,) each.
    """
    stop, depth = _limits(limits), iteration + 1
    may_stop = running & (depth >= stop.min_depth) & stop.satisfied("state", state, next_state)
    must_stop = running & (depth >= stop.max_depth)
    asks = torch.zeros_like(running)
    for change in stop.asks_for("actions"):
        asks = asks | (stop.below[change] < NO_LIMIT)
    decoded = (may_stop | must_stop).any().long() + ((may_stop & asks).any() & ~known).long()
    return may_stop, decoded


def advance(iteration: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Return the decision of `rdvla.engine.solver` after an iteration: whether any goes on, and `CARRIED`.

    Args:
        iteration: from 0.
        values: `CARRIED` from before, the results of `consider`, the next state (B, K, D), the actions before
            and the next actions (B, K, A) if they were decoded, and `LIMITS`.
    """
    running, converged, depth, state, actions, _, *rest = values
    may_stop, decoded, next_state, actions_before, next_actions, *limits = rest
    stop = _limits(limits)
    stopped = may_stop & stop.satisfied("actions", actions_before, next_actions)
    still = running & ~stopped & (iteration + 1 < stop.max_depth)
    going = running[:, None, None]  # a sample that has stopped keeps its result
    return (
        still.any(),
        still,
        converged | stopped,
        depth + running,
        torch.where(going, next_state, state),
        torch.where(going, next_actions, actions),
        decoded > 0,
    )


def _limits(limits: Sequence[Tensor]) -> StopLimits:
    *below, min_depth, max_depth = limits
    return StopLimits(
        below=dict(zip(CHANGES, below, strict=True)),
        optional=frozenset(CHANGES),
        min_depth=min_depth,
        max_depth=max_depth,
        first=1,
        last=1,  # the loop is not run by these two
        coda_reads=None,
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
