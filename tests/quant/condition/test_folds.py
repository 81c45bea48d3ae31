"""Folds: what is recognized, what is not, and that each leaves the function as it was."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from pipeline.graph.gemms import add_missing_biases, find_gemm_groups
from pipeline.quant.condition.folds import Fold
from pipeline.quant.condition.smoothing import Smoother

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
SHAPES = {"w": (4, 4), "wo": (4, 4), "wqkv": (4, 12), "wi": (4, 8), "b": (4,), "bqkv": (12,)}
SHAPES |= {"scale": (4,), "offset": (4,)}

ATTEND = """kt = Transpose <perm = [0, 1, 3, 2]> (k) scores = MatMul(q, kt)
p = Softmax <axis = -1> (scores) mixed = MatMul(p, v)
merged = Transpose <perm = [0, 2, 1, 3]> (mixed) c = Reshape(merged, flat) out = MatMul(c, wo)"""
HEADS = """h = Reshape(x, heads) q = Transpose <perm = [0, 2, 1, 3]> (h) k = Identity(q)
g = MatMul(x, w) value = Add(g, b) vh = Reshape(value, heads)
v = Transpose <perm = [0, 2, 1, 3]> (vh)"""
FUSED = "g = MatMul(x, wqkv) qkv = Add(g, bqkv)"
SPLIT = f"""{FUSED} q3, k3, v3 = Split <axis = -1> (qkv, thirds) qh = Reshape(q3, heads)
kh = Reshape(k3, heads) vh = Reshape(v3, heads) q = Transpose <perm = [0, 2, 1, 3]> (qh)
k = Transpose <perm = [0, 2, 1, 3]> (kh) v = Transpose <perm = [0, 2, 1, 3]> (vh)"""
INTERLEAVED = f"""{FUSED} h = Reshape(qkv, per_head) t = Transpose <perm = [0, 2, 1, 3]> (h)
q, k, v = Split <axis = 3, num_outputs = 3> (t)"""
GATHERED = f"""{FUSED} h = Reshape(qkv, stacked) t = Transpose <perm = [2, 0, 3, 1, 4]> (h)
q = Gather <axis = 0> (t, zero) k = Gather <axis = 0> (t, one) v = Gather <axis = 0> (t, two)"""
SLICED = f"""{FUSED} h = Reshape(qkv, stacked) t = Transpose <perm = [0, 3, 2, 1, 4]> (h)
q1 = Slice(t, zeros, ones, twos) k1 = Slice(t, ones, twos, twos) v1 = Slice(t, twos, end, twos)
q = Squeeze(q1, twos) k = Squeeze(k1, twos) v = Squeeze(v1, twos)"""
OVERLAPPING = SLICED.replace("k1 = Slice(t, ones, twos, twos)", "k1 = Slice(t, twos, end, twos)")
BATCHED = """h = Reshape(x, heads) q = Transpose <perm = [0, 2, 1, 3]> (h)
g = MatMul(x, w) vh = Reshape(g, heads) vt = Transpose <perm = [0, 2, 1, 3]> (vh)
q3 = Reshape(q, batched) v = Reshape(vt, batched) kt = Transpose <perm = [0, 2, 1]> (q3)
scores = MatMul(q3, kt) p = Softmax <axis = -1> (scores) mixed = MatMul(p, v)
mh = Reshape(mixed, unbatched) merged = Transpose <perm = [0, 2, 1, 3]> (mh)
c = Reshape(merged, flat) out = MatMul(c, wo)"""
CENTRED = """mean = ReduceMean <keepdims = 1> (x, last) d = Sub(x, mean) dd = Mul(d, d)
var = ReduceMean <keepdims = 1> (dd, last) sd = Sqrt(var) n = Div(d, sd)"""
GATED = "u = MatMul(x, wi) gate, up = Split <axis = 2, num_outputs = 2> (u) a = Gelu(gate)"

CASES = {
    "value projection": (f"{HEADS} {ATTEND}", Fold.value_projection, True),
    "fused, split": (f"{SPLIT} {ATTEND}", Fold.value_projection, True),
    "fused, interleaved by head": (f"{INTERLEAVED} {ATTEND}", Fold.value_projection, True),
    "fused, gathered": (f"{GATHERED} {ATTEND}", Fold.value_projection, True),
    "fused, sliced": (f"{SLICED} {ATTEND}", Fold.value_projection, True),
    "key reads the value's channels": (f"{OVERLAPPING} {ATTEND}", Fold.explicit, True),
    "value read elsewhere": (
        f"{HEADS} {ATTEND.replace('out', 'o')} out = Add(o, value)",
        Fold.explicit,
        True,
    ),
    "weights that do not sum to 1": (
        f"{HEADS} {ATTEND.replace('Softmax <axis = -1>', 'Sigmoid')}",
        Fold.explicit,
        True,
    ),
    "softmax over queries": (
        f"{HEADS} {ATTEND.replace('axis = -1', 'axis = 2')}",
        Fold.explicit,
        True,
    ),
    "heads among the batch": (BATCHED, Fold.explicit, True),
    "attention read elsewhere": (
        f"{HEADS} {ATTEND.replace('out', 'o')} out = Add(o, c)",
        Fold.explicit,
        True,
    ),
    "gated": (f"{GATED} c = Mul(a, up) out = MatMul(c, wo)", Fold.gated_projection, False),
    "gated, sides swapped": (
        f"{GATED} c = Mul(up, a) out = MatMul(c, wo)",
        Fold.gated_projection,
        False,
    ),
    "SiLU": (
        "g = MatMul(x, w) s = Sigmoid(g) c = Mul(g, s) out = MatMul(c, wo)",
        Fold.explicit,
        True,
    ),
    "squared": ("g = MatMul(x, w) c = Mul(g, g) out = MatMul(c, wo)", Fold.explicit, True),
    "ReLU": ("g = MatMul(x, w) c = Relu(g) out = MatMul(c, wo)", Fold.explicit, True),
    "norm": ("c = LayerNormalization(x, scale, offset) out = MatMul(c, wo)", Fold.layer_norm, True),
    "norm without bias": (
        "c = LayerNormalization(x, scale) out = MatMul(c, wo)",
        Fold.layer_norm,
        True,
    ),
    "norm with a residual branch": (
        "c = LayerNormalization(x, scale) o = MatMul(c, wo) out = Add(o, c)",
        Fold.layer_norm,
        True,
    ),
    "norm read elsewhere": (
        "c = LayerNormalization(x, scale) o = MatMul(c, wo) r = Relu(c) out = Add(o, r)",
        Fold.layer_norm,
        True,
    ),
    "norm in parts": (
        f"{CENTRED} m = Mul(n, scale) c = Add(offset, m) o = MatMul(c, wo) out = Add(c, o)",
        Fold.layer_norm,
        True,
    ),
    "norm in parts, its product read elsewhere": (
        f"{CENTRED} m = Mul(n, scale) c = Add(offset, m) o = MatMul(c, wo) out = Add(m, o)",
        Fold.explicit,
        True,
    ),
    "RMSNorm": (f"{CENTRED} c = Mul(scale, n) out = MatMul(c, wo)", Fold.layer_norm, False),
    "one factor for all channels": ("c = Mul(x, half) out = MatMul(c, wo)", Fold.explicit, True),
}


def parse(text: str) -> ir.Model:
    """Return a graph ``x -> out`` of random weights."""
    random = np.random.default_rng(1)
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph (float[batch,sequence,4] x) => (float[batch,sequence,4] out)
        <int64[4] heads = {{0, 0, 2, 2}}, int64[4] per_head = {{0, 0, 2, 6}}, int64 zero = {{0}},
         int64[5] stacked = {{0, 0, 3, 2, 2}}, int64 one = {{1}}, int64 two = {{2}},
         int64[3] thirds = {{4, 4, 4}}, int64[3] flat = {{0, 0, 4}}, int64[1] zeros = {{0}},
         int64[1] ones = {{1}}, int64[1] twos = {{2}}, int64[1] end = {{3}}, float half = {{0.5}},
         int64[1] last = {{-1}}, int64[3] batched = {{-1, 3, 2}},
         int64[4] unbatched = {{-1, 2, 3, 2}}, {weights(random)}>
        {{ {text} }}"""
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def weights(random: np.random.Generator) -> str:
    """Return initializers as ONNX text."""
    made = []
    for name, shape in SHAPES.items():
        numbers = random.normal(size=int(np.prod(shape))).round(3)
        made.append(f"float{list(shape)} {name} = {{{', '.join(map(str, numbers))}}}")
    return ", ".join(made)


def run(model: ir.Model) -> npt.NDArray[np.float32]:
    evaluator: Any = ReferenceEvaluator(ir.to_proto(model))
    result: npt.NDArray[np.float32] = evaluator.run(["out"], {"x": X})[0]
    return result


@pytest.mark.parametrize(("text", "fold", "can_shift"), CASES.values(), ids=CASES.keys())
def test_a_fold_is_recognized_and_changes_nothing(text: str, fold: Fold, can_shift: bool) -> None:
    model = parse(text)
    expected = run(model)
    groups = add_missing_biases(model.graph, find_gemm_groups(model.graph))
    group = groups[-1]
    smoother = Smoother(model.graph, groups)
    assert smoother.fold_of(group) is fold
    assert smoother.can_shift(group) == can_shift
    random = np.random.default_rng(2)
    shift = random.normal(size=4).astype(np.float32) * can_shift
    smoother.smooth(group, shift, random.uniform(0.1, 10, size=4).astype(np.float32))
    np.testing.assert_allclose(run(model), expected, rtol=1e-3, atol=1e-4)
    multiplied = [node for node in model.graph if (node.name or "").endswith(".smooth")]
    assert bool(multiplied) == (fold is Fold.explicit)


def test_parameters_that_layers_share_are_smoothed_apart() -> None:
    layer = (
        "n{1} = LayerNormalization({0}, scale, offset) g{1} = MatMul(n{1}, w) c{1} = Add(g{1}, b)"
    )
    layers = [layer.format(*ends) for ends in (("x", 1), ("c1", 2), ("c2", 3))]
    model = parse(" ".join([*layers, "out = Relu(c3)"]))
    expected = run(model)
    groups = find_gemm_groups(model.graph)
    smoother = Smoother(model.graph, groups)
    random = np.random.default_rng(2)
    for group in groups * 2:
        shift = random.normal(size=4).astype(np.float32)
        smoother.smooth(group, shift, random.uniform(0.1, 10, size=4).astype(np.float32))
    np.testing.assert_allclose(run(model), expected, rtol=1e-3, atol=1e-4)


def test_a_tensor_that_leaves_the_graph_is_smoothed_explicitly() -> None:
    for name in ("norm", "value projection"):
        model = parse(CASES[name][0])
        groups = add_missing_biases(model.graph, find_gemm_groups(model.graph))
        model.graph.outputs.append(groups[-1].activation)
        assert Smoother(model.graph, groups).fold_of(groups[-1]) is Fold.explicit


def test_the_size_of_a_projection_may_be_read() -> None:
    """Exporters read batch and sequence off any tensor; its shape is no channel."""
    model = parse(CASES["value projection"][0])
    groups = find_gemm_groups(model.graph)
    shape = ir.node("Shape", [groups[0].gemms[0].output], name="size")
    model.graph.append(shape)
    assert Smoother(model.graph, groups).fold_of(groups[-1]) is Fold.value_projection
