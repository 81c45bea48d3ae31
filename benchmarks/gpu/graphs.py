"""CUDA graphs on and off: one batch on the device already, enqueued kernel by kernel or replayed.

https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/best-practices.html#cuda-graphs
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.ceilings import best_seconds
from benchmarks.gpu.sides import GpuSide
from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.bound import BoundSession
from pipeline.engines.cuda import missing
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.plan import is_capturable
from pipeline.engines.tensorrt import TensorRTEncoder
from pipeline.engines.torch import TorchEncoder
from pipeline.engines.torch_graphs import without_mask_check
from pipeline.text.tokens import TokenBatch

SHAPES = ((1, 16), (1, 128), (8, 64), (32, 128))


def measure_graphs(
    sides: Mapping[str, GpuSide], shapes: Sequence[tuple[int, int]] = SHAPES
) -> dict[str, Any]:
    """Return, by side, milliseconds of each shape enqueued and replayed, or why there are none.

    Rows are full; neither time holds a copy to or from the host, but for ONNX Runtime, whose both
    times hold the same ones.
    """
    found: dict[str, Any] = {}
    for name, side in sides.items():
        if side.encoder.device != "cuda":
            found[name] = {"skipped": "no CUDA device"}
        elif name == "torch_compile":
            found[name] = {"skipped": "compiled for any shape: its kernels are not captured here"}
        elif _bound(side) is not None or isinstance(side.encoder, TorchEncoder | TensorRTEncoder):
            found[name] = [_measure(side, *shape) for shape in shapes]
        else:
            found[name] = {"skipped": f"{name} has no bound buffers: {missing() or 'no room'}"}
    return found


def _measure(side: GpuSide, batch: int, sequence: int) -> dict[str, Any]:
    cell: dict[str, Any] = {"batch": batch, "sequence": sequence}
    if side.takes is not None and not side.takes(batch, sequence):
        return cell | {"skipped": "not in a profile"}
    try:
        with without_mask_check():
            return cell | _on_and_off(side, (batch, sequence))
    except Exception as error:  # a capture fails in as many ways as there are kernels
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return cell | {"skipped": f"failed: {first[:300]}"}


def _bound(side: GpuSide) -> BoundSession | None:
    return side.encoder.bound if isinstance(side.encoder, OnnxRuntimeEncoder) else None


def bound_on_and_off(bound: BoundSession, shape: tuple[int, int]) -> dict[str, Any]:
    """Time ONNX Runtime on the device, host to host, without and with the shape's graph."""
    ones = np.ones(shape, np.int64)
    batch = TokenBatch(input_ids=ones * 100, attention_mask=ones, token_type_ids=ones * 0)
    off = best_seconds(lambda: bound.encode(batch, graph=False), "cpu", repeats=100)
    for _ in range(3):  # a shape that comes again is captured
        bound.encode(batch)
    if not bound.graphs:
        raise RuntimeError("its session captures no graph")
    on = best_seconds(lambda: bound.encode(batch), "cpu", repeats=100)
    return {"off_ms": off * 1e3, "on_ms": on * 1e3, "copies": True}


def _on_and_off(side: GpuSide, shape: tuple[int, int]) -> dict[str, Any]:
    bound = _bound(side)
    if bound is not None:
        return bound_on_and_off(bound, shape)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    enqueue = _enqueue(side, shape, stream)
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):  # lets lazy state settle: cuBLAS handles, TensorRT's shapes
            enqueue()
        stream.synchronize()
        off = best_seconds(enqueue, "cuda", repeats=100)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            enqueue()
        on = best_seconds(graph.replay, "cuda", repeats=100)
    return {"off_ms": off * 1e3, "on_ms": on * 1e3}


def _enqueue(
    side: GpuSide, shape: tuple[int, int], stream: torch.cuda.Stream
) -> Callable[[], object]:
    encoder = side.encoder
    ones = torch.ones(shape, dtype=torch.int64, device="cuda")
    inputs = {"input_ids": ones * 100, "attention_mask": ones, "token_type_ids": ones * 0}
    if isinstance(encoder, TorchEncoder):
        model, names = encoder.model, encoder.inputs
        return lambda: model({name: inputs[name] for name in names})
    assert isinstance(encoder, TensorRTEncoder)
    output = torch.empty((shape[0], encoder.dimension), device="cuda")
    addresses = {name: inputs[name].data_ptr() for name in encoder.inputs}
    context = encoder.bind(shape, addresses | {GRAPH_OUTPUT: output.data_ptr()})
    if not is_capturable(context, stream.cuda_stream):
        raise RuntimeError("TensorRT-RTX's context says that it cannot be captured")

    def run() -> None:
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not run a batch")
        _ = output, inputs  # the addresses that the context holds stay alive with this function

    return run
