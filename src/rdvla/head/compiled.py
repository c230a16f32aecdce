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
ROUNDING = {"fp32": 1e-3, "bf16": 0.2}  # more than it makes of a state's numbers, less than a mistake does
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
        try:
            with torch.no_grad(), config.patch(settings), products_in(precision, device.type):
                return compiled(*args, **kwargs)
        except (InductorError, BackendCompilerFailed) as error:
            raise not_compiled(error, "without `optimize` the head runs as it is") from error

    return run


def products_in(precision: Precision, device_type: str) -> torch.autocast:
    """Matrix products are computed in this precision within it."""
    return torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16")


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
        tune: look for the fastest kernel of each matrix product of an iteration.
    """

    def __init__(self, head: RecurrentDepthHead, *, precision: Precision, tune: bool = False) -> None:
        device = head.gamma_init.device
        self.precision = precision
        # These are never tuned: torch 2.13 then computes products with one matrix a head wrongly.
        self._encode = compile_frozen(head.encode, precision=precision, device=device)
        self._decode = compile_frozen(head.decode, precision=precision, device=device)
        self._iterate = compile_frozen(head.iterate, precision=precision, device=device, tune=tune)
        self._reference = head.iterate if tune else None
        self._compared: set[bool] = set()  # whether with one sample, with several: each is compiled by itself

    def encode(self, context: Context, *, coda_reads: int | None = None) -> EncodedContext:
        """See `Steps.encode`."""
        return self._encode(context, coda_reads=coda_reads)

    def iterate(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.iterate`.

        Raises:
            RDVLAError: tuned code computes something else than the head.
        """
        found = self._iterate(state, encoded).float()
        if self._reference is not None and (len(state) > 1) not in self._compared:
            with torch.no_grad(), products_in(self.precision, state.device.type):
                self._compare(found, self._reference(state, encoded).float())
            self._compared.add(len(state) > 1)
        return found

    def decode(self, state: Tensor, encoded: EncodedContext) -> Tensor:
        """See `Steps.decode`."""
        return self._decode(state, encoded).float()

    def _compare(self, found: Tensor, expected: Tensor) -> None:
        """States have numbers of size 1, so that differences mean the same for every head."""
        difference = float((found - expected).abs().max())
        if not difference < ROUNDING[self.precision]:
            raise RDVLAError(
                f"torch {torch.__version__} compiled a tuned iteration wrongly: it differs by "
                f"{difference:.1e}. Use optimize() without tune"
            )
