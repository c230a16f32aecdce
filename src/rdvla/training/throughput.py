"""How fast a run trains: samples per second, and how much of the device's arithmetic that is.

Operations are counted, not estimated from the number of parameters: one sample runs forward and backward
under torch's `FlopCounterMode`, at a few depths. A multiplication and an addition are two operations. The
count knows what is frozen, what the caches hold, and where truncated backpropagation cuts the gradient.

Not counted: the optimiser, element-wise functions, activations that gradient checkpointing computes again,
and the earlier queries of warm starts. So this is *model-flops utilisation*: what the mathematics of an
update needs, divided by what the device could have computed in the same time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rdvla.policy import RDVLAPolicy
from rdvla.policy.batch import Batch
from rdvla.policy.losses import LossWeights
from rdvla.training.config import TrainConfig
from rdvla.training.metrics import Update

# Words of a GPU's name -> tera-operations per second in dense products: (bfloat16, float32 without TF32). The
# first match counts. Source: the manufacturer's data sheets, halved if they assume sparse weights.
PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250.0, 75.0),
    "GH200": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L4": (121.0, 30.3),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "RTX A6000": (154.8, 38.7),
    "RTX 6000 Ada": (364.2, 91.1),
    "RTX 5090": (209.5, 104.8),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
}


@dataclass(frozen=True)
class Operations:
    """Operations of one sample's forward and backward pass, by the depth r of the update.

    It is two lines: iterations beyond those that gradient flows through cost less.
    """

    gradient_depth: int  # iterations that gradient flows through at most
    shallow: tuple[float, float]  # operations at r = 0, and of each iteration, up to there
    deep: tuple[float, float]  # the same beyond

    def at(self, depth: int) -> float:
        """Return the operations of one sample at a depth."""
        start, slope = self.shallow if depth <= self.gradient_depth else self.deep
        return start + slope * depth


@dataclass(frozen=True)
class Throughput:
    """Turns the seconds of updates into samples and operations per second."""

    batch_size: int  # samples per update, of all processes together
    operations: Operations
    peak: float | None  # operations per second that all devices together could do; None: not known

    def figures(self, window: Sequence[Update]) -> dict[str, float]:
        """Return `samples_per_second`, `tflops` and, if the peak is known, `utilisation` (0..1).

        Args:
            window: updates that follow each other; loading their batches counts as part of them.
        """
        seconds = sum(update.seconds for update in window)
        done = self.batch_size * sum(self.operations.at(update.depth) for update in window)
        found = {
            "samples_per_second": self.batch_size * len(window) / seconds,
            "tflops": done / seconds / 1e12,
        }
        return found if self.peak is None else found | {"utilisation": done / seconds / self.peak}


def measure_throughput(
    config: TrainConfig, policy: RDVLAPolicy, batch: Batch, *, losses: LossWeights, processes: int
) -> Throughput:
    """Count what an update needs, and look up what the devices can do.

    Args:
        config: of the run.
        policy: frozen and adapted as it is in training, not yet wrapped or compiled.
        batch: one sample.
        losses: that are trained.
        processes: each with a device like this one.
    """
    narrow = any(value.dtype == torch.bfloat16 for value in policy.parameters())
    peak = 1e12 * config.compute.peak_tflops or device_peak(
        policy.device, bfloat16=narrow or config.mixed_precision == "bf16"
    )
    return Throughput(
        batch_size=config.batch_size,
        operations=update_operations(policy, batch, losses=losses, candidates=config.loss.candidates),
        peak=None if peak is None else peak * processes,
    )


def update_operations(
    policy: RDVLAPolicy, batch: Batch, *, losses: LossWeights, candidates: int = 1
) -> Operations:
    """Count the operations of an update's sample.

    Args:
        policy: frozen and adapted as it is in training, not yet wrapped or compiled.
        batch: one sample.
        losses: that are trained.
        candidates: initial states, of which the one that ends nearest is trained.
    """

    def count(depth: int) -> int:
        generator = torch.Generator().manual_seed(0)  # the run's draws stay as they are
        trained = operations_of(
            lambda: policy(batch, losses=losses, generator=generator, depth=depth).total, policy
        )
        return trained if candidates == 1 else trained + candidates * searched(depth)

    def searched(depth: int) -> int:
        context = policy.context_from(batch.features, batch.state)
        return operations_of(lambda: policy.head(context, depth=depth), policy.head, backward=False)

    return count_operations(count, gradient_depth=policy.config.head.gradient_depth)


def count_operations(count: Callable[[int], int], *, gradient_depth: int) -> Operations:
    """Find the cost by depth from counts at two shallow and two deep ones.

    Args:
        count: depth -> operations of one sample.
        gradient_depth: iterations that gradient flows through at most.
    """
    deeper = gradient_depth + 1
    return Operations(
        gradient_depth=gradient_depth,
        # With a single iteration that has gradient, r = 1 is all there is of the first line.
        shallow=_line(1, count(1), count(min(2, gradient_depth))),
        deep=_line(deeper, count(deeper), count(deeper + 1)),
    )


def operations_of(loss: Callable[[], Tensor], module: nn.Module, *, backward: bool = True) -> int:
    """Count the operations of a loss and of its gradient; weights, gradients and modes stay as they are.

    Args:
        loss: computes the loss, ().
        module: its trained parameters get a gradient. It runs in evaluation mode, without checkpointing.
        backward: whether the gradient counts too.
    """
    was_training = module.training
    module.eval()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        # Attention as plain products: the counter does not know every fused kernel.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            value = loss()
            if backward:
                torch.autograd.grad(value, trained, allow_unused=True)
    finally:
        module.train(was_training)
    total: int = counter.get_total_flops()
    return total


def device_peak(device: torch.device, *, bfloat16: bool) -> float | None:
    """Return the operations per second of a well-known GPU, or None: nothing is guessed.

    Args:
        device: that trains.
        bfloat16: whether its products are in bfloat16; else in float32, of which the table knows the speed
            without TF32 only.
    """
    if device.type != "cuda" or (not bfloat16 and torch.backends.cuda.matmul.allow_tf32):
        return None
    return named_peak(torch.cuda.get_device_name(device), bfloat16=bfloat16)


def named_peak(name: str, *, bfloat16: bool) -> float | None:
    """Return the operations per second of a GPU by its name, or None if `PEAK_TFLOPS` lacks it."""
    if "MIG" in name:  # a share of a GPU
        return None
    for words, (in_bfloat16, in_float32) in PEAK_TFLOPS.items():
        if re.search(rf"\b{words}\b", name):
            return 1e12 * (in_bfloat16 if bfloat16 else in_float32)
    return None


def _line(depth: int, first: int, second: int) -> tuple[float, float]:
    """Return start and slope of the line through counts at a depth and at the next."""
    slope = float(second - first)
    return first - slope * depth, slope
