"""The functions that an exported graph consists of; each calls the head's own methods.

encode: inputs -> encoded context, and the loop's first values. iterate: state -> next state. gate: states ->
samples that may stop, and so how many states the coda decodes. decode: one state -> actions. stop: actions
-> samples that stop, and the loop's next values. finish: normalised actions -> the graph's actions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rdvla.control import CHANGES, NO_LIMIT, StopLimits
from rdvla.engine.steps import HeadSteps
from rdvla.export.interface import BATCH, GraphInterface
from rdvla.export.tracing import Example, TensorFunction
from rdvla.heads import RecurrentDepthHead

BELOW = tuple(f"below.{change}" for change in CHANGES)  # upper limits of changes, in the table's order
LIMITS = (*BELOW, "min_depth", "max_depth")  # the stop rule of every sample, (B,) each
LAST_DEPTH = "last_depth"  # at which the last sample ends
MAY_STOP = "may_stop"  # (B,) bool: samples that stop unless their actions still change
DECODE_COUNT = "decode_count"  # states that the coda decodes: none, the new one, or also the previous one
KEEP_GOING = "keep_going"  # whether some sample goes on
CARRIED = ("running", "converged", "depth", "state", "actions", "actions_known")  # between iterations


@dataclass(frozen=True)
class LoopFunctions:
    """The functions by name, and the values that go in and around the loop."""

    functions: Mapping[str, TensorFunction]  # encode, iterate, gate, decode, stop, finish
    inputs: Mapping[str, Example]  # of the whole graph
    carried: Mapping[str, Example]  # `CARRIED`
    encoded: tuple[str, ...]  # names of the encoded context's tensors


def make_loop_functions(head: RecurrentDepthHead, interface: GraphInterface) -> LoopFunctions:
    """Describe the functions for a head between the inputs and outputs of an interface."""
    config = head.config
    state = _batch_of(torch.zeros(BATCH, config.chunk_size, config.hidden_dim))
    actions = _batch_of(torch.zeros(BATCH, config.chunk_size, config.action_dim))
    flags, counts = (_batch_of(torch.ones(BATCH, dtype=dtype)) for dtype in (torch.bool, torch.int64))
    count, flag = Example(torch.tensor(1), {}), Example(torch.tensor(True), {})
    carried = dict(zip(CARRIED, (flags, flags, counts, state, actions, flag), strict=True))
    limits = dict.fromkeys(BELOW, _batch_of(torch.ones(BATCH))) | {"min_depth": counts, "max_depth": counts}
    steps = HeadSteps(head)
    with torch.no_grad():
        examples = (example.tensor for example in interface.inputs.values())
        template = steps.encode(interface.context(*examples))
    encoded = {f"encoded.{i}": _batch_of(tensor) for i, tensor in enumerate(_tensors_in(template))}

    def encode(initial_state: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        no_actions = initial_state.new_zeros(len(initial_state), config.chunk_size, config.action_dim)
        running = torch.ones_like(initial_state[:, 0, 0], dtype=torch.bool)
        first = (running, ~running, running.long() * 0, no_actions, ~running.any())
        return (*_tensors_in(steps.encode(interface.context(*inputs))), *first)

    def iterate(state: Tensor, *tensors: Tensor) -> Tensor:
        return head.iterate(state, _with_tensors(template, iter(tensors)))

    def decode(
        number: Tensor, decode_count: Tensor, state: Tensor, next_state: Tensor, *tensors: Tensor
    ) -> Tensor:
        is_last = number + 1 == decode_count  # of two states, the previous one comes first
        decoded = torch.where(is_last, next_state, state)
        return steps.decode(decoded, _with_tensors(template, iter(tensors)))

    first = tuple(name for name in CARRIED if name != "state")
    states = {"state": state, "next_state": state}
    gated = {MAY_STOP: flags, DECODE_COUNT: count, "next_state": state}
    decoded = {"previous_actions": actions, "next_actions": actions}
    return LoopFunctions(
        functions={
            "encode": TensorFunction(
                encode, {"initial_state": state, **interface.inputs}, (*encoded, *first)
            ),
            "iterate": TensorFunction(iterate, {"state": state, **encoded}, ("next_state",)),
            "gate": TensorFunction(
                gate,
                {"iteration": count, "running": flags, "actions_known": flag, **states, **limits},
                (MAY_STOP, DECODE_COUNT),
            ),
            "decode": TensorFunction(
                decode, {"number": count, DECODE_COUNT: count, **states, **encoded}, ("actions",)
            ),
            "stop": TensorFunction(
                stop, {"iteration": count, **carried, **gated, **decoded, **limits}, (KEEP_GOING, *CARRIED)
            ),
            "finish": TensorFunction(interface.finish, {"normalized": actions}, ("actions",)),
        },
        inputs={**interface.inputs, "initial_state": state, **limits, LAST_DEPTH: count},
        carried=carried,
        encoded=tuple(encoded),
    )


def gate(
    iteration: Tensor,
    running: Tensor,
    actions_known: Tensor,
    state: Tensor,
    next_state: Tensor,
    *limits: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the samples (B,) whose states allow them to stop, and how many states the coda decodes.

    The coda decodes no state if no sample may or must stop. It decodes two if actions decide and the previous
    ones are not known.

    Args:
        iteration: (), from 0.
        running: (B,), the samples that have not stopped.
        actions_known: (), whether the previous iteration decoded its actions.
        state: (B, K, D).
        next_state: (B, K, D).
        limits: `LIMITS`, (B,) each.
    """
    rules, depth = _stop_limits(limits), iteration + 1
    may_stop = running & (depth >= rules.min_depth) & rules.satisfied("state", state, next_state)
    must_stop = running & (depth >= rules.max_depth)
    asks = torch.zeros_like(running)
    for change in rules.asks_for("actions"):
        asks = asks | (rules.below[change] < NO_LIMIT)
    decode_new = (may_stop | must_stop).any()
    decode_previous = (may_stop & asks).any() & ~actions_known
    return may_stop, decode_new.long() + decode_previous.long()


def stop(iteration: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """Decide as `rdvla.engine.solver` after an iteration: return whether some sample goes on, and `CARRIED`.

    Args:
        iteration: (), from 0.
        values: `CARRIED`, the results of `gate`, the next state (B, K, D), the previous and the next actions
            (B, K, A) if they were decoded, and `LIMITS`.
    """
    running, converged, depth, state, actions, _, *rest = values
    may_stop, decode_count, next_state, previous_actions, next_actions, *limits = rest
    rules = _stop_limits(limits)
    stopped = may_stop & rules.satisfied("actions", previous_actions, next_actions)
    still_running = running & ~stopped & (iteration + 1 < rules.max_depth)
    update = running[:, None, None]  # a sample that has stopped keeps its result
    return (
        still_running.any(),
        still_running,
        converged | stopped,
        depth + running,
        torch.where(update, next_state, state),
        torch.where(update, next_actions, actions),
        decode_count > 0,
    )


def _stop_limits(limits: Sequence[Tensor]) -> StopLimits:
    *below, min_depth, max_depth = limits
    return StopLimits(
        below=dict(zip(CHANGES, below, strict=True)),
        optional=frozenset(CHANGES),
        min_depth=min_depth,
        max_depth=max_depth,
        first=1,
        last=1,  # neither bounds the graph's loop
        coda_reads=None,
    )


def _batch_of(tensor: Tensor) -> Example:
    return Example(tensor, {0: "batch"})


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested dataclasses and tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors_in(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors_in(getattr(value, field.name))


def _with_tensors(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Return nested dataclasses and tuples with their tensors replaced, in order."""
    if isinstance(value, Tensor):
        return next(tensors)
    if isinstance(value, tuple):
        items = [_with_tensors(item, tensors) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: _with_tensors(getattr(value, field.name), tensors) for field in fields(value)}
        return replace(value, **changed)
    return value
