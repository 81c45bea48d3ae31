"""Write the graph that a choice of int8 GEMMs would give, for its plan only.

Types decide what a compiler does, values do not: weights are rounded to the nearest step and the
activations' steps are made up, so nothing has to be calibrated.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel
from pipeline.graph.files import load_graph, prune, save_graph
from pipeline.graph.gemms import GemmGroup, add_missing_biases, find_gemm_groups
from pipeline.graph.half import cast_to_half, refuse_subgraphs
from pipeline.quant.calibrate.scales import weight_scales
from pipeline.quant.round.quantized import QuantizedGemm, QuantizedGroup
from pipeline.quant.round.rounding import round_nearest
from pipeline.quant.write.qdq import insert_qdq

_STEP = np.float32(0.05)


def write_candidate(
    model: OnnxModel, int8: Collection[str], wide: Sequence[str], path: Path
) -> OnnxModel:
    """Write an fp32 graph with the named GEMMs in int8 and the rest in fp16.

    ``wide`` names the tensors that fp16 cannot hold.
    """
    graph = load_graph(model)
    refuse_subgraphs(graph)
    groups = [g for g in find_gemm_groups(graph.graph) if any(m.name in int8 for m in g.gemms)]
    for group in add_missing_biases(graph.graph, groups):
        insert_qdq(graph.graph, _rounded(group), int8)
    prune(graph)
    cast_to_half(graph, wide)
    return save_graph(graph, path, precision=NumericType.int8, source_sha256=model.sha256)


def _rounded(group: GemmGroup) -> QuantizedGroup:
    parts = []
    for gemm in group.gemms:
        scales = weight_scales(gemm.weight)
        parts.append(
            QuantizedGemm(
                gemm=gemm,
                integers=round_nearest(gemm.weight, scales),
                scales=scales,
                bias_delta=np.zeros(len(scales), np.float32),
            )
        )
    return QuantizedGroup(group=group, step=_STEP, gemms=parts)
