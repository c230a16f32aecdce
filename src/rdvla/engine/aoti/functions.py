"""The functions that a compiled head consists of; each takes and returns tensors only.

encode: features -> injection, then keys and values of every core block. project: features -> the coda's
contexts. iterate: state, injection, the core's keys and values -> next state. decode: state, the coda's
contexts -> actions. `project` and `decode` exist once per form of the coda's contexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rdvla.engine import gemv
from rdvla.engine.compiled import products_in
from rdvla.engine.context import Unprojected, form_for
from rdvla.engine.steps import HeadSteps, attention_of
from rdvla.heads import Context, Level
from rdvla.heads.recurrent.model import BlockContext, EncodedContext, KeysValues, RecurrentDepthHead

CodaForm = tuple[str, ...]  # for each coda block the form of its context, a name in `FORMS`

FORMS: Mapping[str, type[KeysValues] | type[Unprojected]] = {"keys": KeysValues, "context": Unprojected}
FORM_NAMES = {form: name for name, form in FORMS.items()}
CODA_READS = (1, 4, None)  # all values that stop rules and traces ask for
BATCH = 2  # of the examples; torch takes 1 for a constant


@dataclass(frozen=True)
class Function:
    """A function of tensors, and example tensors to trace it with; their first dimension is the batch."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]
    example: tuple[Tensor, ...]


def features_by_name(context: Context, levels: Sequence[Level]) -> dict[str, Tensor]:
    """Return a context's tensors at a head's levels, in the order that compiled code takes them."""
    named = {f"vision.{level}": context.vision[level] for level in levels}
    named |= {f"latents.{level}": context.latents[level] for level in levels}
    return named | {"proprio": context.proprio}


def make_functions(head: RecurrentDepthHead, example: Context, *, dtype: torch.dtype) -> dict[str, Function]:
    """Describe a head's functions by name, for the token counts of an example."""
    levels = head.config.levels
    features = tuple(value[:1].repeat(BATCH, 1, 1) for value in features_by_name(example, levels).values())
    context = _context(head, features)
    state = head.initial_state(BATCH)
    functions: dict[str, Function] = {}
    for reads in CODA_READS:
        form = coda_form(head, token_counts(example, levels), reads)
        if function_name("decode", form) in functions:
            continue
        with torch.no_grad(), products_in(dtype, "cpu"):
            encoded = HeadSteps(head).encode(context, coda_reads=reads)
        if form:
            functions[function_name("project", form)] = Function(_project(head, reads), features)
        functions[function_name("decode", form)] = Function(
            _decode(head, form), (state, *tensors_of(encoded.coda))
        )
    return functions | {
        "encode": Function(_encode(head), features),
        "iterate": Function(_iterate(head), (state, encoded.injection, *tensors_of(encoded.core))),
    }


def has_kernel(head: RecurrentDepthHead) -> bool:
    """Return whether products run in the GEMV kernel: the chunk of a single sample must fit into it."""
    return head.config.chunk_size <= gemv.MAX_ROWS and gemv.available(torch.device("cpu"))


def token_counts(context: Context, levels: Sequence[Level]) -> dict[str, int]:
    """Return the number of tokens by feature name."""
    return {feature: value.shape[1] for feature, value in features_by_name(context, levels).items()}


def coda_form(head: RecurrentDepthHead, tokens: Mapping[str, int], reads: int | None) -> CodaForm:
    """Return the form of the coda's contexts for these numbers of tokens, if the coda runs `reads` times."""
    forms = []
    for block, level in zip(head.coda, head.config.coda, strict=True):
        total = tokens[f"vision.{level}"] + tokens[f"latents.{level}"] + tokens["proprio"]
        attention, chunk_size = attention_of(block), head.config.chunk_size
        forms.append(FORM_NAMES[form_for(attention, chunk_size=chunk_size, tokens=total, reads=reads)])
    return tuple(forms)


def form_of(contexts: Iterable[BlockContext]) -> CodaForm:
    """Return the form of each context."""
    return tuple(FORM_NAMES[type(each)] for each in contexts)  # type: ignore[index]  # the engine makes no others


def function_name(function: str, form: CodaForm) -> str:
    """Name a function that exists once per form."""
    return "_".join((function, *form))


def tensors_of(contexts: Iterable[BlockContext]) -> list[Tensor]:
    """Return the tensors of contexts, two per block."""
    return [tensor for context in contexts for tensor in cast("KeysValues | Unprojected", context)]


def contexts_from(form: CodaForm, tensors: Sequence[Tensor]) -> tuple[BlockContext, ...]:
    """Undo `tensors_of`."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return cast(
        "tuple[BlockContext, ...]",
        tuple(FORMS[kind](*pair) for kind, pair in zip(form, pairs, strict=True)),
    )


def _context(head: RecurrentDepthHead, features: Sequence[Tensor]) -> Context:
    levels = head.config.levels
    return Context(
        vision=dict(zip(levels, features[: len(levels)], strict=True)),
        latents=dict(zip(levels, features[len(levels) : -1], strict=True)),
        proprio=features[-1],
    )


def _encode(head: RecurrentDepthHead) -> Callable[..., tuple[Tensor, ...]]:
    def encode(*features: Tensor) -> tuple[Tensor, ...]:
        encoded = HeadSteps(head).encode(_context(head, features), coda_reads=1)
        return (encoded.injection, *tensors_of(encoded.core))

    return encode


def _project(head: RecurrentDepthHead, reads: int | None) -> Callable[..., tuple[Tensor, ...]]:
    def project(*features: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(HeadSteps(head).coda_contexts(_context(head, features), coda_reads=reads)))

    return project


def _iterate(head: RecurrentDepthHead) -> Callable[..., Tensor]:
    core = ("keys",) * len(head.core)

    def iterate(state: Tensor, injection: Tensor, *tensors: Tensor) -> Tensor:
        encoded = EncodedContext(injection, contexts_from(core, tensors), coda=())
        return head.iterate(state, encoded).float()

    return iterate


def _decode(head: RecurrentDepthHead, form: CodaForm) -> Callable[..., Tensor]:
    def decode(state: Tensor, *tensors: Tensor) -> Tensor:
        encoded = EncodedContext(injection=state, core=(), coda=contexts_from(form, tensors))
        return HeadSteps(head).decode(state, encoded).float()

    return decode
