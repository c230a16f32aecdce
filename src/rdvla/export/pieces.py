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
from rdvla.runtime.stop import KINDS, READING

BATCH = 2  # of the examples
LIMITS = {  # what the loop runs by, and the type of each
    "rule": torch.int64,
    "threshold": torch.float32,
    "coda_below": torch.float32,
    "min_depth": torch.int64,
    "max_depth": torch.int64,
}
MAY_STOP = "may_stop"  # which samples do, unless their actions forbid it
READINGS = "readings"  # how many states the coda reads: none, this iteration's, or also the one before
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
    carried = dict(zip(CARRIED, (flags, flags, counts, state, actions, known), strict=True))
    limits = {name: Example(torch.tensor(1, dtype=dtype), {}) for name, dtype in LIMITS.items()}
    with torch.no_grad():
        template = head.encode(observed.context(*(example.tensor for example in observed.inputs.values())))
    encoded = {f"encoded.{i}": _batch_of(leaf) for i, leaf in enumerate(_leaves(template))}

    def encode(initial_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        empty = initial_state.new_zeros(len(initial_state), config.chunk_size, config.action_dim)
        running = torch.ones_like(initial_state[:, 0, 0], dtype=torch.bool)
        start = (running, ~running, running.long() * 0, empty, ~running.any())
        return (*_leaves(head.encode(observed.context(*inputs))), *start)

    def iterate(state: Tensor, *tensors: Tensor) -> Tensor:
        return head.iterate(state, _fill(template, iter(tensors)))

    def decode(
        number: Tensor, readings: Tensor, state: Tensor, next_state: Tensor, *tensors: Tensor
    ) -> Tensor:
        last = number + 1 == readings  # of two, the one before comes first
        return head.decode(torch.where(last, next_state, state), _fill(template, iter(tensors)))

    start = tuple(name for name in CARRIED if name != "state")
    stops = {name: limits[name] for name in ("rule", "threshold")}
    states = {"state": state, "next_state": state}
    read = {MAY_STOP: flags, READINGS: one, "next_state": state, "actions_before": actions}
    return Pieces(
        parts={
            "encode": Part(encode, {"initial_state": state, **observed.inputs}, (*encoded, *start)),
            "iterate": Part(iterate, {"state": state, **encoded}, ("next_state",)),
            "consider": Part(
                consider,
                {"iteration": one, **limits, "running": flags, "known": known, **states},
                (MAY_STOP, READINGS),
            ),
            "decode": Part(decode, {"number": one, READINGS: one, **states, **encoded}, ("actions",)),
            "advance": Part(
                advance, {**stops, **carried, **read, "next_actions": actions}, (GOING, *CARRIED)
            ),
            "finish": Part(observed.finish, {"normalized": actions}, ("actions",)),
        },
        inputs={**observed.inputs, "initial_state": state, **limits},
        carried=carried,
        encoded=tuple(encoded),
    )


def consider(
    iteration: Tensor,
    rule: Tensor,
    threshold: Tensor,
    coda_below: Tensor,
    min_depth: Tensor,
    max_depth: Tensor,
    running: Tensor,
    known: Tensor,
    state: Tensor,
    next_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Which samples (B,) may stop as far as the states tell, and how many states the coda has to read.

    Where the rule reads actions and those before are not `known`, that is two; where nobody can stop, none.

    Args:
        iteration: from 0.
        rule: its place in `KINDS`.
        threshold: of the rule.
        coda_below: of the deferred rule.
        min_depth: of the rule.
        max_depth: of the rule.
        running: (B,) which samples do.
        known: whether the actions of the iteration before are.
        state: (B, K, D). next_state: (B, K, D).
    """
    latent = latent_change(state, next_state)
    # In the order of `KINDS`.
    fixed, always, deferred, by_latent, by_cosine = (rule == place for place in range(len(KINDS)))
    may_stop = fixed | always | (deferred & (latent < coda_below)) | (by_latent & (latent < threshold))
    may_stop = may_stop | (by_cosine & (cosine_change(state, next_state) < threshold))
    may_stop = may_stop & running & (iteration + 1 >= min_depth)
    anyone = may_stop.any()
    readings = (anyone | (iteration + 1 >= max_depth)).long() + (anyone & _reads(rule) & ~known).long()
    return may_stop, readings


def advance(rule: Tensor, threshold: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """What `rdvla.head.solver` decides after an iteration: whether any sample goes on, and `CARRIED`.

    Args:
        rule: its place in `KINDS`.
        threshold: of the rule.
        values: `CARRIED` from before, what `consider` found, the next state (B, K, D), the actions before and
            the next actions (B, K, A) where they were read.
    """
    running, converged, depth, state, actions, _, *now = values
    may_stop, readings, next_state, actions_before, next_actions = now
    settled = action_change(actions_before, next_actions) < threshold
    stopped = may_stop & (settled | ~_reads(rule))
    still = running & ~stopped
    going = running[:, None, None]  # what has stopped keeps its result
    return (
        still.any(),
        still,
        converged | stopped,
        depth + running,
        torch.where(going, next_state, state),
        torch.where(going, next_actions, actions),
        readings > 0,
    )


def _reads(rule: Tensor) -> Tensor:
    first, second = (KINDS.index(kind) for kind in READING)
    return (rule == first) | (rule == second)


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
