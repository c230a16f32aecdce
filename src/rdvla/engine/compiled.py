"""A head's steps as compiled code, its weights packed for the processor that runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from rdvla.engine import gemv
from rdvla.engine.steps import HeadSteps
from rdvla.errors import ConfigError, RDVLAError
from rdvla.heads import Context
from rdvla.heads.recurrent.model import EncodedContext, RecurrentDepthHead

DTYPES = (torch.float32, torch.bfloat16)
WITHOUT = "without compiled code the head runs as it is"
P = ParamSpec("P")
T = TypeVar("T")


def compile_frozen(function: Callable[P, T], *, dtype: torch.dtype, device: torch.device) -> Callable[P, T]:
    """Compile a function of tensors for inference; weights that it reads become constants of the code.

    In bfloat16, its matrix products use weights that are converted once. Compiling takes some ten seconds per
    function, at the first call with one sample and again at the first with several.
    """
    from torch._inductor import config  # importing the compiler takes seconds

    def step(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    # torch caches compiled code with the code object, whatever weights it holds: the next head must not find
    # this one's.
    step.__code__ = step.__code__.replace()
    compiled = torch.compile(step)

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            # Constants can be laid out as the processor's products want them.
            with torch.no_grad(), config.patch(freezing=True), products_in(dtype, device.type):
                return compiled(*args, **kwargs)
        except compiler_failures() as error:
            raise not_compiled(error, WITHOUT) from error

    return run


def products_in(dtype: torch.dtype, device_type: str) -> torch.autocast:
    """Return a context within which matrix products are computed in `dtype`."""
    return torch.autocast(device_type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def check_dtype(dtype: torch.dtype) -> None:
    """Raise `ConfigError` if compiled products have no such dtype."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(map(str, DTYPES))}, got {dtype}")


def compiler_failures() -> tuple[type[Exception], ...]:
    """Return the errors that torch's compiler raises if it fails, or finds no C++ compiler."""
    from torch._dynamo.exc import BackendCompilerFailed
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    return InductorError, BackendCompilerFailed, CppCompileError, InvalidCxxCompiler


def not_compiled(error: Exception, instead: str) -> RDVLAError:
    """Return the error for a head that could not be compiled; `instead` says what works without it."""
    return RDVLAError(
        f"torch could not compile the head: {error}\nOn a CPU it needs a C++ compiler such as g++ and "
        f"Python's headers; {instead}"
    )


class CompiledSteps:
    """A head's steps through `torch.compile`; see `rdvla.engine.compile`.

    Args:
        head: as it is now; the code holds its weights.
        dtype: of the matrix products; states and actions stay float32.
    """

    def __init__(self, head: RecurrentDepthHead, *, dtype: torch.dtype) -> None:
        check_dtype(dtype)
        self._head = head
        self._dtype = dtype
        self._any_rows = _Functions.of(head, dtype)
        device, own = head.gamma_init.device, head.gamma_init.dtype
        self._has_gemv = gemv.available(device) and own == torch.float32

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        rows = context.batch_size * self._head.config.chunk_size
        encoded = self._for(rows).encode(context, coda_reads=coda_reads)
        # A context that was encoded with many rows goes on with few once samples stop: one dtype for both.
        return replace(encoded, injection=encoded.injection.float())

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self._for(state[..., 0].numel()).iterate(state, encoded).float()

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._for(state[..., 0].numel()).decode(state, encoded).float()

    def _for(self, rows: int) -> _Functions:
        return self._few_rows if self._has_gemv and rows <= gemv.MAX_ROWS else self._any_rows

    @functools.cached_property
    def _few_rows(self) -> _Functions:
        try:
            return _Functions.of(gemv.gemv_copy(self._head, self._dtype), self._dtype)
        except compiler_failures() as error:
            raise not_compiled(error, WITHOUT) from error


@dataclass(frozen=True)
class _Functions:
    """A head's steps, each compiled by itself."""

    encode: Callable[..., EncodedContext]
    iterate: Callable[[Tensor, EncodedContext], Tensor]
    decode: Callable[[Tensor, EncodedContext], Tensor]

    @staticmethod
    def of(head: RecurrentDepthHead, dtype: torch.dtype) -> _Functions:
        steps, device = HeadSteps(head), head.gamma_init.device
        return _Functions(
            encode=compile_frozen(steps.encode, dtype=dtype, device=device),
            iterate=compile_frozen(steps.iterate, dtype=dtype, device=device),
            decode=compile_frozen(steps.decode, dtype=dtype, device=device),
        )
