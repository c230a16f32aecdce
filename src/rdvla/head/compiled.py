"""A head's steps as compiled code, its weights packed for the processor that it runs on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from rdvla.errors import RDVLAError
from rdvla.head import skinny
from rdvla.head.context import Context
from rdvla.head.steps import EncodedContext

if TYPE_CHECKING:
    from rdvla.head.recurrent import RecurrentDepthHead

Precision = Literal["fp32", "bf16"]
P = ParamSpec("P")
T = TypeVar("T")


def compile_frozen(function: Callable[P, T], *, precision: Precision, device: torch.device) -> Callable[P, T]:
    """Compile a function of tensors for inference; weights that it reads become constants of the code.

    With `bf16` its matrix products are computed in bfloat16, from weights converted once. Compiling takes
    some ten seconds for each function, at the first call with one sample and once more with several.
    """
    from torch._inductor import config  # importing the compiler takes seconds

    def step(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    # What is compiled is kept with the code object, and is not told apart by weights that it holds: the next
    # one must not find it.
    step.__code__ = step.__code__.replace()
    compiled = torch.compile(step)

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            # Constants can be laid out as the processor's products want them.
            with torch.no_grad(), config.patch(freezing=True), products_in(precision, device.type):
                return compiled(*args, **kwargs)
        except compiler_failures() as error:
            raise not_compiled(error, "without `optimize` the head runs as it is") from error

    return run


def products_in(precision: Precision, device_type: str) -> torch.autocast:
    """Matrix products are computed in this precision within it."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16")


def weight_type(precision: Precision) -> torch.dtype:
    """As what the weights of matrix products are kept."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def compiler_failures() -> tuple[type[Exception], ...]:
    """What torch's compiler raises where it fails, or finds no C++ compiler."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    return InductorError, BackendCompilerFailed, CppCompileError, InvalidCxxCompiler


def not_compiled(error: Exception, instead: str) -> RDVLAError:
    """Return the error for a head that torch's compiler failed on; `instead` says what works without it."""
    return RDVLAError(
        f"torch could not compile the head: {error}\nOn a CPU it needs a C++ compiler such as g++ and "
        f"Python's headers; {instead}"
    )


class CompiledSteps:
    """The steps of a head through `torch.compile`; see `RecurrentDepthHead.optimize`.

    Args:
        head: as it is now: later changes of its weights do not arrive here.
        precision: of the matrix products; states and actions stay float32.
    """

    def __init__(self, head: RecurrentDepthHead, *, precision: Precision) -> None:
        self._head = head
        self._precision = precision
        self._many = _Functions.of(head, precision)
        device, dtype = head.gamma_init.device, head.gamma_init.dtype
        self._has_kernel = skinny.available(device) and dtype == torch.float32

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        rows = context.batch_size * self._head.config.chunk_size
        encoded = self._for(rows).encode(context, coda_reads=coda_reads)
        # What many rows were encoded with goes on with few once samples have stopped: in one type for both.
        return replace(encoded, injection=encoded.injection.float())

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self._for(state[..., 0].numel()).iterate(state, encoded).float()

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._for(state[..., 0].numel()).decode(state, encoded).float()

    def _for(self, rows: int) -> _Functions:
        return self._few if self._has_kernel and rows <= skinny.MOST_ROWS else self._many

    @functools.cached_property
    def _few(self) -> _Functions:
        try:
            twin = skinny.skinny_copy(self._head, weight_type(self._precision))
            return _Functions.of(twin, self._precision)
        except compiler_failures() as error:
            raise not_compiled(error, "without `optimize` the head runs as it is") from error


@dataclass(frozen=True)
class _Functions:
    """A head's steps, each compiled by itself."""

    encode: Callable[..., EncodedContext]
    iterate: Callable[[Tensor, EncodedContext], Tensor]
    decode: Callable[[Tensor, EncodedContext], Tensor]

    @staticmethod
    def of(head: RecurrentDepthHead, precision: Precision) -> _Functions:
        device = head.gamma_init.device
        return _Functions(
            encode=compile_frozen(head.encode, precision=precision, device=device),
            iterate=compile_frozen(head.iterate, precision=precision, device=device),
            decode=compile_frozen(head.decode, precision=precision, device=device),
        )
