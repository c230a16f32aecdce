"""Runs a head's steps with code that was compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rdvla.engine.aoti.functions import (
    CODA_READS,
    coda_form,
    contexts_from,
    features_by_name,
    form_of,
    function_name,
    tensors_of,
)
from rdvla.errors import InputError
from rdvla.heads import Context
from rdvla.heads.recurrent.model import EncodedContext, RecurrentDepthHead


class PackagedSteps:
    """A head's steps as functions that were compiled ahead of time, for an `Engine`.

    Args:
        head: the head that was compiled.
        functions: its compiled functions by name; see `rdvla.engine.aoti.functions`.
        tokens: numbers of tokens by feature name that the code was compiled for.
    """

    def __init__(
        self,
        head: RecurrentDepthHead,
        functions: Mapping[str, Callable[..., Any]],
        *,
        tokens: Mapping[str, int],
    ) -> None:
        self._functions = functions
        self._levels = head.config.levels
        width = head.config.context_width
        self._shapes = {feature: (count, width) for feature, count in tokens.items()}
        self._core = ("keys",) * len(head.core)
        self._forms = {reads: coda_form(head, tokens, reads) for reads in CODA_READS}

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`.

        Raises:
            InputError: the context has other numbers of tokens than the code, or is not on the CPU.
        """
        # The code does not check the sizes and layout of its inputs.
        named = features_by_name(context, self._levels)
        self._check(named, batch=context.batch_size)
        features = [value.float().contiguous() for value in named.values()]
        form = self._forms.get(coda_reads, self._forms[None])
        injection, *core = self._functions["encode"](*features)
        coda = self._functions[function_name("project", form)](*features) if form else ()
        return EncodedContext(injection, contexts_from(self._core, core), contexts_from(form, coda))

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self._run("iterate", state.float(), encoded.injection, *tensors_of(encoded.core))

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._run(
            function_name("decode", form_of(encoded.coda)), state.float(), *tensors_of(encoded.coda)
        )

    def _run(self, function: str, *tensors: Tensor) -> Tensor:
        result: Tensor = self._functions[function](*(tensor.contiguous() for tensor in tensors))
        return result

    def _check(self, features: Mapping[str, Tensor], *, batch: int) -> None:
        for feature, value in features.items():
            if value.device.type != "cpu":
                raise InputError(f"the head was compiled for the CPU, {feature} is on {value.device}")
            expected = (batch, *self._shapes[feature])
            if tuple(value.shape) != expected:
                raise InputError(
                    f"the head was compiled for {feature} of shape {expected}, the context has "
                    f"{tuple(value.shape)}: load the policy without its compiled head, or export it for such "
                    "contexts"
                )
