"""A head's steps as compiled code, its weights packed for the processor that it runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from rdvla.errors import RDVLAError
from rdvla.head.context import Context
from rdvla.head.steps import EncodedContext

if TYPE_CHECKING:
    from rdvla.head.recurrent import RecurrentDepthHead

Precision = Literal["fp32", "bf16"]
TUNING = {
    "max_autotune_gemm": True,
    "max_autotune_report_choices_stats": False,
    "autotune_num_choices_displayed": 0,
}
P = ParamSpec("P")
T = TypeVar("T")


def compile_frozen(
    function: Callable[P, T], *, precision: Precision, device: torch.device, tune: bool = False
) -> Callable[P, T]:
    """Compile a function of tensors for inference; weights that it reads become constants of the code.

    With `bf16` its matrix products are computed in bfloat16, from weights converted once. Compiling takes
    some ten seconds for each function, at the first call with one sample and once more with several; twice as
    long where it is to `tune`, to time several kernels for each matrix product and take the fastest.
    """
    from torch._dynamo.exc import BackendCompilerFailed  # importing the compiler takes seconds
    from torch._inductor import config
    from torch._inductor.exc import InductorError

    def step(*args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    # What is compiled is kept with the code object, and is not told apart by weights that it holds: the next
    # one must not find it.
    step.__code__ = step.__code__.replace()
    compiled = torch.compile(step)
    # Constants can be laid out as the processor's products want them: twice as fast for eight rows.
    settings = {"freezing": True, **(TUNING if tune else {})}

    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
        try:
            with torch.no_grad(), config.patch(settings), autocast:
                return compiled(*args, **kwargs)
        except (InductorError, BackendCompilerFailed) as error:
            raise not_compiled(error, "without `optimize` the head runs as it is") from error

    return run


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
        tune: look for the fastest kernel of each matrix product in the core and the coda.
    """

    def __init__(self, head: RecurrentDepthHead, *, precision: Precision, tune: bool = False) -> None:
        device = head.gamma_init.device
        self.precision = precision
        # Not tuned: torch 2.13 then computes the prelude wrongly, whose first products are of constants.
        self._encode = compile_frozen(head.encode, precision=precision, device=device)
        self._iterate = compile_frozen(head.iterate, precision=precision, device=device, tune=tune)
        self._decode = compile_frozen(head.decode, precision=precision, device=device, tune=tune)

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        return self._encode(context, coda_reads=coda_reads)

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`."""
        return self._iterate(state, encoded).float()

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._decode(state, encoded).float()
