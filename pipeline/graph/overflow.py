"""Check that no text drives a tensor that a graph holds in fp16 beyond fp16's range."""

from collections.abc import Sequence

import onnx_ir as ir

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import MeasureError
from pipeline.graph.files import load_graph
from pipeline.graph.half import FP16_MAX, float_tensors, largest_values

_SHOWN = 3


def check_overflow(
    exact: OnnxModel, half: OnnxModel, source: SourceModel, texts: Sequence[str]
) -> None:
    """Run ``exact`` (fp32) on texts that the cast has not seen and judge the tensors of ``half``.

    A CPU computes fp16 in fp32 and would show nothing; on a GPU the same text gives infinity.

    Raises:
        MeasureError: a tensor that is fp16 in ``half`` needs more than fp16's largest number.
    """
    typed = {value.name for value in float_tensors(load_graph(half), ir.DataType.FLOAT16)}
    graph = load_graph(exact)
    tensors = [value for value in float_tensors(graph) if value.name in typed]
    if not tensors:
        return
    reach = largest_values(graph, tensors, source, texts)
    over = sorted(name for name, value in reach.items() if not value <= FP16_MAX)
    if over:
        shown = ",".join(f'"{name}"' for name in over[:_SHOWN])
        more = f" and {len(over) - _SHOWN} more" if len(over) > _SHOWN else ""
        raise MeasureError(
            f"{source.name}: fp16 overflows: {over[0]} reaches {reach[over[0]]:.3g}, fp16 ends at "
            f"{FP16_MAX:.0f}; keep these in fp32 with precision.keep_fp32=[{shown}]{more} (names "
            "may hold *), or calibrate on text like it (dataset.calibration_fraction)"
        )
