"""A head's steps as code that was compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rdvla.errors import InputError
from rdvla.export.aoti.parts import (
    CODA_READS,
    coda_form,
    features_by_name,
    flat,
    form_of,
    name,
    token_counts,
    unflat,
)
from rdvla.head import Context, RecurrentDepthHead
from rdvla.head.steps import EncodedContext


class PackagedSteps:
    """The steps of a head, for `RecurrentDepthHead.use`.

    Args:
        head: whose code it is.
        parts: the compiled functions by name, see `rdvla.export.aoti.parts`.
        tokens: number of tokens by name of the feature, for which they were compiled.
    """

    def __init__(
        self, head: RecurrentDepthHead, parts: Mapping[str, Callable[..., Any]], *, tokens: Mapping[str, int]
    ) -> None:
        self._parts = parts
        self._tokens = tokens
        self._core = ("keys",) * len(head.core)
        self._forms = {reads: coda_form(head, tokens, reads) for reads in CODA_READS}

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`.

        Raises:
            InputError: the context has other numbers of tokens than the code, or is not on the processor.
        """
        self._check(context)
        # The code takes the layout of its inputs on trust.
        features = [value.float().contiguous() for value in features_by_name(context).values()]
        form = self._forms.get(coda_reads, self._forms[None])
        injection, *core = self._parts["encode"](*features)
        coda = self._parts[name("project", form)](*features) if form else ()
        return EncodedContext(injection, unflat(self._core, core), unflat(form, coda))

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self._run("iterate", state, encoded.injection, *flat(encoded.core))

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._run(name("decode", form_of(encoded.coda)), state, *flat(encoded.coda))

    def _run(self, part: str, *tensors: Tensor) -> Tensor:
        result: Tensor = self._parts[part](*(tensor.contiguous() for tensor in tensors))
        return result

    def _check(self, context: Context) -> None:
        if context.proprio.device.type != "cpu":
            raise InputError(
                f"the head was compiled for the processor, the context is on {context.proprio.device}"
            )
        for feature, count in token_counts(context).items():
            if count != self._tokens[feature]:
                raise InputError(
                    f"the head was compiled for {self._tokens[feature]} tokens of {feature}, the context has "
                    f"{count}: load the policy without its compiled head, or export it for such contexts"
                )
