"""The matrix products of one iteration at the paper's size: torch's compiled products against the kernel.

    python -m benchmarks.gemv --output runs/bench/gemv.json

A sample's input has 8 rows, one per action. The clock runs over 8 iterations of thirteen products; their 113
MiB of float32 weights are packed before. A time is for one iteration.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Spread, hardware, interleave, paired_ratio
from benchmarks.head_case import PAPER
from rdvla.engine import gemv
from rdvla.engine.compiled import DTYPES, compile_frozen
from rdvla.engine.gemv.linear import GEMVLinear
from rdvla.files import write_json
from rdvla.heads import RecurrentConfig

ROWS = (8, 16, 32, 64)
ITERATIONS = 8  # in turn, as in a query: some weights may still be in a cache
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # for outputs of size 1


def weights(config: RecurrentConfig) -> list[Tensor]:
    """Draw weights (O, I) for an iteration's products, scaled to give outputs of size 1."""
    width, inner = config.hidden_dim, config.feedforward_multiple * config.hidden_dim
    block = [
        (3 * width, width),
        (width, width),
        (width, width),
        (width, width),
        (2 * inner, width),
        (width, inner),
    ]
    shapes = [(width, width), *(block * len(config.core))]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) / shape[1] ** 0.5 for shape in shapes]


class Products(nn.Module):
    """Applies each layer to the input of its width."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, inputs: dict[int, Tensor]) -> list[Tensor]:
        """{I: (rows, I)} -> each (rows, O)."""
        return [layer(inputs[layer.in_features]).float() for layer in self.layers]  # type: ignore[index]


def candidates(matrices: Sequence[Tensor], dtype: torch.dtype) -> dict[str, Callable[..., list[Tensor]]]:
    """Return torch's compiled products, with weights packed for the processor, and the kernel's."""
    plain = Products([_linear(matrix) for matrix in matrices]).requires_grad_(False)
    kernel = Products([GEMVLinear(matrix, dtype) for matrix in matrices])
    return {"torch": compile_frozen(plain, dtype=dtype, device=torch.device("cpu")), "kernel": kernel}


def measure(config: RecurrentConfig, *, rows: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Check that both give the same result, then time them in turn; return a line per dtype and row count.

    Raises:
        RuntimeError: the two differ by more than rounding does.
    """
    gemv.register(gemv.build())
    matrices = weights(config)
    lines = []
    for dtype in DTYPES:
        for count in rows:
            # Compile for each row count by itself: products for any number of rows are slower.
            torch.compiler.reset()
            runs = candidates(matrices, dtype)
            inputs = {width: torch.randn(count, width) for width in {matrix.shape[1] for matrix in matrices}}
            difference = _difference(runs["torch"](inputs), runs["kernel"](inputs))
            if not difference < TOLERANCE[dtype]:
                raise RuntimeError(f"the kernel disagrees by {difference} in {dtype} with {count} rows")
            calls = {name: functools.partial(_iterate, run, inputs) for name, run in runs.items()}
            samples = {
                name: [spent / ITERATIONS for spent in values]
                for name, values in interleave(calls, rounds=rounds).items()
            }
            lines.append(_line(dtype, count, samples, matrices))
            print(_text(lines[-1]), flush=True)
    return lines


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight.data = weight
    return layer


def _iterate(products: Callable[..., list[Tensor]], inputs: dict[int, Tensor]) -> None:
    for _ in range(ITERATIONS):
        products(inputs)


def _difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(some, others, strict=True))


def _line(
    dtype: torch.dtype, rows: int, samples: dict[str, list[float]], matrices: Sequence[Tensor]
) -> dict[str, Any]:
    size = sum(matrix.numel() for matrix in matrices) * dtype.itemsize
    times = {name: Spread.of(values) for name, values in samples.items()}
    ratio = paired_ratio(samples["torch"], samples["kernel"])
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "rows": rows,
        "ratio": ratio.median,
        "ratio_spread": [ratio.low, ratio.high],
        "ms": {name: time.median for name, time in times.items()},
        "spread_ms": {name: [time.low, time.high] for name, time in times.items()},
        "gib_per_second": {name: size / 2**30 / (time.median / 1000) for name, time in times.items()},
        "rounds": len(samples["kernel"]),
    }


def _text(line: dict[str, Any]) -> str:
    spread, ms, speed = line["ratio_spread"], line["ms"], line["gib_per_second"]
    return (
        f"{line['dtype']}, {line['rows']:>2} rows: "
        f"{line['ratio']:.2f}x ({spread[0]:.2f}..{spread[1]:.2f}); "
        f"torch {ms['torch']:.1f} ms, kernel {ms['kernel']:.1f} ms; "
        f"weights at {speed['torch']:.1f} and {speed['kernel']:.1f} GiB/s"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the lines, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gemv", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/gemv.json"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    lines = measure(PAPER, rows=ROWS, rounds=options.rounds)
    write_json(options.output, {"schema": 1, "hardware": hardware(), "rows": lines})
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
