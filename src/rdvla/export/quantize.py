"""Weights of matrix products in 8 bits, also those that a loop multiplies with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdvla.export.quiet import quiet

if TYPE_CHECKING:
    import onnx

BITS = 8
BLOCK = 32  # weights that share a scale, along the dimension that is summed over
COMPUTE = 4  # onnxruntime's accuracy level: products of 8-bit integers, activations quantised on the way


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store the weights of matrix products as 8-bit integers, with a scale for each block of them.

    Convolutions, embeddings, biases and norms stay as they are.
    """
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK, is_symmetric=True, accuracy_level=COMPUTE, bits=BITS
    )
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    with quiet():
        quantizer.process()
    quantized: onnx.ModelProto = quantizer.model.model
    return quantized
