"""Write graphs of a few nodes as text, with random weights, and run them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
SHAPES = {"w1": (4, 6), "w2": (6, 4), "w3": (6, 4), "wx": (4, 6), "b1": (6,), "b2": (4,)}
SHAPES |= {"each": (6,), "half": (1,), "one": ()}
WIDE = np.ones((2, 3, 6), np.float32)

FloatArray = npt.NDArray[np.float32]


def parse(text: str, outputs: str = "") -> ir.Model:
    """Return a graph ``x -> out`` of random weights."""
    random = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[b,s,4] x, float[b,s,6] wide) => (float[b,s,4] out {outputs})
        <int64[1] last = {{-1}}> {{ {text} }}"""
    )
    for name, shape in SHAPES.items():
        array = np.asarray(random.normal(size=shape), np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(model: ir.Model) -> FloatArray:
    """Return what a graph gives for ``X`` and ``WIDE``, after a full check of it."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    evaluator: Any = ReferenceEvaluator(proto)
    result: FloatArray = evaluator.run(["out"], {"x": X, "wide": WIDE})[0]
    return result
