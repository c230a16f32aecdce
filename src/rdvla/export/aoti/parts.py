"""The functions of tensors that a compiled head consists of.

encode: features -> injection, then keys and values of every core block. project: features -> what the coda
reads. iterate: state, injection, the core's keys and values -> next state. decode: state, what the coda reads
-> actions. `project` and `decode` exist once for each form in which the coda can read the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rdvla.head import Context, Level, RecurrentDepthHead, skinny
from rdvla.head.block import Block
from rdvla.head.compiled import Precision, products_in
from rdvla.head.cross_attention import BlockContext, KeysValues, Unprojected
from rdvla.head.steps import EncodedContext

Form = tuple[str, ...]  # how each coda block reads the context: a name in FORMS

FORMS: Mapping[str, type[KeysValues] | type[Unprojected]] = {"keys": KeysValues, "context": Unprojected}
NAMES = {form: name for name, form in FORMS.items()}
CODA_READS = (1, 4, None)  # that stop rules and traces ask for
BATCH = 2  # of the examples: torch takes 1 for a constant


@dataclass(frozen=True)
class Part:
    """A function of tensors, and tensors to trace it with; their first dimension is the batch."""

    function: Callable[..., Tensor | tuple[Tensor, ...]]
    example: tuple[Tensor, ...]


def features_by_name(context: Context, levels: Sequence[Level]) -> dict[str, Tensor]:
    """The tensors of a context at a head's levels, in the order in which compiled code takes them."""
    named = {f"vision.{level}": context.vision[level] for level in levels}
    named |= {f"latents.{level}": context.latents[level] for level in levels}
    return named | {"proprio": context.proprio}


def make_parts(head: RecurrentDepthHead, example: Context, *, precision: Precision) -> dict[str, Part]:
    """Describe the parts of a head for the token counts of an example, by name."""
    levels = head.config.levels
    features = tuple(value[:1].repeat(BATCH, 1, 1) for value in features_by_name(example, levels).values())
    context = _context(head, features)
    state = head.initial_state(BATCH)
    parts: dict[str, Part] = {}
    for reads in CODA_READS:
        form = coda_form(head, token_counts(example, levels), reads)
        if name("decode", form) in parts:
            continue
        with torch.no_grad(), products_in(precision, "cpu"):
            encoded = head.encode(context, coda_reads=reads)
        if form:
            parts[name("project", form)] = Part(_project(head, reads), features)
        parts[name("decode", form)] = Part(_decode(head, form), (state, *flat(encoded.coda)))
    return parts | {
        "encode": Part(_encode(head), features),
        "iterate": Part(_iterate(head), (state, encoded.injection, *flat(encoded.core))),
    }


def has_kernel(head: RecurrentDepthHead) -> bool:
    """Whether products run in the kernel for few rows: where one sample, as a robot has, has few."""
    return head.config.chunk_size <= skinny.MOST_ROWS and skinny.available(torch.device("cpu"))


def token_counts(context: Context, levels: Sequence[Level]) -> dict[str, int]:
    """Number of tokens by name of the feature."""
    return {feature: value.shape[1] for feature, value in features_by_name(context, levels).items()}


def coda_form(head: RecurrentDepthHead, tokens: Mapping[str, int], reads: int | None) -> Form:
    """How the coda's blocks read a context of so many tokens if they read it so often."""
    form = []
    for block, level in zip(head.coda, head.config.coda, strict=True):
        assert isinstance(block, Block)
        total = tokens[f"vision.{level}"] + tokens[f"latents.{level}"] + tokens["proprio"]
        form.append(NAMES[block.cross_attention.form_for(total, reads)])
    return tuple(form)


def form_of(contexts: Iterable[BlockContext]) -> Form:
    """The form in which contexts are."""
    return tuple(NAMES[type(each)] for each in contexts)


def name(part: str, form: Form) -> str:
    """Name of a part that exists once a form."""
    return "_".join((part, *form))


def flat(contexts: Iterable[BlockContext]) -> list[Tensor]:
    """Their tensors: two a block."""
    return [tensor for context in contexts for tensor in context]


def unflat(form: Form, tensors: Sequence[Tensor]) -> tuple[BlockContext, ...]:
    """The opposite of `flat`."""
    pairs = zip(tensors[::2], tensors[1::2], strict=True)
    return tuple(FORMS[kind](*pair) for kind, pair in zip(form, pairs, strict=True))


def _context(head: RecurrentDepthHead, features: Sequence[Tensor]) -> Context:
    levels = head.config.levels
    return Context(
        vision=dict(zip(levels, features[: len(levels)], strict=True)),
        latents=dict(zip(levels, features[len(levels) : -1], strict=True)),
        proprio=features[-1],
    )


def _encode(head: RecurrentDepthHead) -> Callable[..., tuple[Tensor, ...]]:
    def encode(*features: Tensor) -> tuple[Tensor, ...]:
        encoded = head.encode(_context(head, features), coda_reads=1)
        return (encoded.injection, *flat(encoded.core))

    return encode


def _project(head: RecurrentDepthHead, reads: int | None) -> Callable[..., tuple[Tensor, ...]]:
    def project(*features: Tensor) -> tuple[Tensor, ...]:
        return tuple(flat(head.coda_contexts(_context(head, features), coda_reads=reads)))

    return project


def _iterate(head: RecurrentDepthHead) -> Callable[..., Tensor]:
    core = ("keys",) * len(head.core)

    def iterate(state: Tensor, injection: Tensor, *tensors: Tensor) -> Tensor:
        encoded = EncodedContext(injection, unflat(core, tensors), coda=())
        return head.iterate(state, encoded).float()

    return iterate


def _decode(head: RecurrentDepthHead, form: Form) -> Callable[..., Tensor]:
    def decode(state: Tensor, *tensors: Tensor) -> Tensor:
        encoded = EncodedContext(injection=state, core=(), coda=unflat(form, tensors))
        return head.decode(state, encoded).float()

    return decode
