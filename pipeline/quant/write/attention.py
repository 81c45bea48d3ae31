"""Put attention's own GEMMs in int8 or E4M3: scores, and probabilities times values.

Both inputs are computed, so both get a Q/DQ pair with a static step: TensorRT's int8 attention
wants them on both batch-GEMM inputs (developer guide, "Working with Quantized Types") and fuses up
to sequence 512.
"""

from collections.abc import Sequence

import onnx_ir as ir

from pipeline.quant.calibrate.attention import AttentionGemm
from pipeline.quant.write.qdq import insert_activation_qdq


def insert_attention_qdq(graph: ir.Graph, gemms: Sequence[AttentionGemm]) -> None:
    """Quantize both inputs of every GEMM in place."""
    for gemm in gemms:
        for index, scale in enumerate(gemm.steps):
            value = gemm.node.inputs[index]
            assert value is not None
            name = f"{gemm.node.name or gemm.node.outputs[0].name}.input{index}"
            rounded = insert_activation_qdq(
                graph, value, scale, before=gemm.node, name=name, grid=gemm.grid
            )
            gemm.node.replace_input_with(index, rounded)
