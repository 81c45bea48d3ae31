"""graph.cuda: every rewrite by itself, and the stage that puts them together."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, open_session
from pipeline.errors import OptimizeError
from pipeline.graph.cuda.activations import fuse_activations
from pipeline.graph.cuda.argmax import replace_argmax
from pipeline.graph.cuda.broadcasts import repeat_shared_sides
from pipeline.graph.cuda.host_numbers import make_on_device
from pipeline.graph.cuda.norms import fuse_norms
from pipeline.graph.cuda.rms import fuse_rms
from pipeline.graph.cuda.scores import fuse_scores
from pipeline.graph.files import load_graph, prune
from pipeline.measure.speed.profile import read_kernels
from pipeline.stages import fuse as stage
from pipeline.stages.fuse import fuse
from pipeline.text.tokens import Tokenizer
from pipeline.vectors import row_cosines

WIDTH = 8
Rewrite = Callable[[ir.Model], int]


def make(text: str) -> ir.Model:
    """Parse a graph of x and y ``[batch, sequence, 8]`` in ONNX's text form."""
    return ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>\n'
        f"g (float[batch,sequence,{WIDTH}] x, float[batch,sequence,{WIDTH}] y) => "
        f"(float[batch,sequence,{WIDTH}] z)\n{text}"
    )


def vector(name: str) -> str:
    values = np.random.default_rng(len(name)).normal(size=WIDTH).round(3).tolist()
    return f"{name} = Constant <value_floats: floats = {values}> ()"


def run(model: ir.Model, path: Path) -> np.ndarray:
    ir.save(model, path)
    generator = np.random.default_rng(0)
    feed = {n: generator.normal(size=(2, 3, WIDTH)).astype(np.float32) for n in "xy"}
    session = open_session(path, optimize=False)
    wanted = [value.name for value in session.get_inputs()]
    result: np.ndarray = session.run(None, {name: feed[name] for name in wanted})[0]
    return result


def lifted(model: ir.Model) -> ir.Model:
    """Turn Constant nodes into initializers, and let shapes be known, as in exported graphs."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    ShapeInferencePass()(model)
    return model


CASES = {
    "norm": ("s = Add(x, y) z = LayerNormalization<axis = -1>(s, gamma, beta)", 1),
    "norm, bias": (
        "b = Add(x, bias) s = Add(b, y) z = LayerNormalization<axis = -1>(s, gamma, beta)",
        1,
    ),
    "norm, bias on the other side": (
        "b = Add(bias, x) s = Add(y, b) z = LayerNormalization<axis = -1>(s, gamma, beta)",
        1,
    ),
    "norm without beta": ("s = Add(x, y) z = LayerNormalization<axis = -1>(s, gamma)", 1),
    "sum carried on": (
        "s = Add(x, y) n = LayerNormalization<axis = -1>(s, gamma, beta) z = Add(n, s)",
        1,
    ),
    "norm of one tensor": ("z = LayerNormalization<axis = -1>(x, gamma, beta)", 0),
    "norm of a vector added": ("s = Add(x, bias) z = LayerNormalization<axis = -1>(s, gamma)", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_norms(case: str, tmp_path: Path) -> None:
    text, expected = CASES[case]
    constants = " ".join(vector(name) for name in ("gamma", "beta", "bias"))
    model = lifted(make("{ " + constants + " " + text + " }"))
    before = run(model, tmp_path / "a.onnx")
    assert fuse_norms(model) == expected
    prune(model)
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["SkipLayerNormalization"] == expected
    assert kinds["LayerNormalization"] == 1 - expected
    np.testing.assert_allclose(run(model, tmp_path / "b.onnx"), before, atol=2e-6)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a = Add(x, bias) z = Gelu(a)", "BiasGelu"),
        ("a = Add(bias, x) z = Gelu(a)", "BiasGelu"),
        ('a = Add(x, bias) z = Gelu<approximate = "tanh">(a)', "FastGelu"),
        ("a = Add(x, y) z = Gelu(a)", None),
        ("a = Add(x, bias) g = Gelu(a) z = Add(g, a)", None),
    ],
)
def test_activations(text: str, kind: str | None, tmp_path: Path) -> None:
    model = lifted(make("{ " + vector("bias") + " " + text + " }"))
    before = run(model, tmp_path / "a.onnx")
    assert fuse_activations(model) == (kind is not None)
    prune(model)
    assert (kind or "Gelu") in {node.op_type for node in model.graph}
    # FastGelu's tanh is computed by another formula of the same function.
    np.testing.assert_allclose(run(model, tmp_path / "b.onnx"), before, atol=2e-4)


RMS = (
    "{ two = Constant <value_float: float = %s> () e = Constant <value_float: float = 1e-6> () "
    "axes = Constant <value_ints: ints = [%s]> () %s p = Pow(x, two) m = ReduceMean(p, axes) "
    "s = Add(m, e) r = Sqrt(s) i = Reciprocal(r) n = Mul(x, i) z = Mul(gamma, n) }"
)


@pytest.mark.parametrize(("power", "axis", "fused"), [(2, -1, 1), (2, 2, 1), (3, -1, 0), (2, 1, 0)])
def test_norms_by_the_root_of_the_mean_square(
    power: int, axis: int, fused: int, tmp_path: Path
) -> None:
    model = lifted(make(RMS % (power, axis, vector("gamma"))))
    before = run(model, tmp_path / "a.onnx")
    assert fuse_rms(model) == fused
    prune(model)
    assert ("SimplifiedLayerNormalization" in {n.op_type for n in model.graph}) == bool(fused)
    np.testing.assert_allclose(run(model, tmp_path / "b.onnx"), before, atol=2e-6)


@pytest.mark.slow
def test_the_stage_gives_fp16_with_fp32_outputs_and_pooling(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    tiny_tokenizer: Tokenizer,
    calibration_texts: Sequence[str],
    evaluation_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    fused = fuse(tiny_fp32, tiny_source, calibration_texts, tmp_path / "fuse")
    assert fused.precision is NumericType.fp16
    assert fused.source_sha256 == tiny_fp32.sha256
    assert fused.path == tmp_path / "fuse" / "cuda" / "model.onnx"
    assert [path.name for path in (tmp_path / "fuse").iterdir()] == ["cuda"]
    assert [(o.name, o.dtype) for o in fused.outputs] == [("sentence_embedding", "float")]
    assert {i.dtype for i in fused.inputs} == {"int64"}
    graph = load_graph(fused).graph
    types = {
        node.op_type: {i.dtype for i in node.inputs if i is not None and i.dtype is not None}
        for node in graph
    }
    for kind in ("Attention", "SkipLayerNormalization", "BiasGelu", "MatMul"):
        assert ir.DataType.FLOAT not in types[kind]
        assert ir.DataType.FLOAT16 in types[kind]
    assert ir.DataType.FLOAT16 not in types["ReduceSum"]
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(evaluation_texts))
    expected, observed = (OnnxRuntimeEncoder(m.path).encode(batch) for m in (tiny_fp32, fused))
    assert row_cosines(expected, observed).min() >= 0.9999


@pytest.mark.slow
def test_a_rewrite_that_changes_the_vectors_is_refused(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(model: ir.Model) -> int:
        for node in model.graph:
            if node.op_type == "SkipLayerNormalization":
                node.replace_input_with(1, node.inputs[0])
                return 1
        raise AssertionError("nothing to break")

    monkeypatch.setattr(stage, "fuse_activations", wrong)
    with pytest.raises(OptimizeError, match=r"for CUDA changed what the fp32 graph .*optimize="):
        fuse(tiny_fp32, tiny_source, calibration_texts, tmp_path / "fuse")


@pytest.mark.slow
def test_padding_on_the_left_keeps_its_mask(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    tiny_tokenizer: Tokenizer,
    calibration_texts: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lengths cannot say where padding on the left ends."""
    monkeypatch.setattr(tiny_tokenizer, "padding_side", "left")
    monkeypatch.setattr(stage, "Tokenizer", lambda *_, **__: tiny_tokenizer)
    fused = fuse(tiny_fp32, replace(tiny_source, name="left"), calibration_texts, tmp_path / "fuse")
    attention = [n for n in load_graph(fused).graph if n.op_type == "Attention"]
    assert attention
    for node in attention:
        mask = node.inputs[3]
        assert mask is not None
        assert mask.shape is not None
        assert len(mask.shape) == 2


def test_what_ran_is_read_from_a_profile() -> None:
    def node(op: str, provider: str) -> dict[str, Any]:
        return {
            "cat": "Node",
            "name": f"{op}_kernel_time",
            "args": {"op_name": op, "provider": provider},
        }

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events: list[dict[str, Any]] = [
        node("Attention", cuda),
        node("Attention", cuda),
        node("Shape", cpu),
        {"cat": "Session", "name": "model_run", "args": {}},
    ]
    assert read_kernels(events) == {"operators": {"Attention": 2}, "elsewhere": {"Shape": 1}}
    names = [
        "void flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>",
        "void attention_kernel_batched_impl<AttentionKernel<half_t>>",
        "fmha_v2_flash_attention_fp16_S_64_sm86_kernel",
        "void onnxruntime::contrib::cuda::SoftmaxWithRawMaskSmallKernel<half>",
        "ampere_fp16_s16816gemm_fp16_128x128",
    ]
    launched: list[dict[str, Any]] = [{"cat": "Kernel", "name": name, "args": {}} for name in names]
    seen = read_kernels([*events, *launched])
    assert seen["launched"] == 5
    assert seen["attention"] == {"flash": 1, "fused": 1, "memory_efficient": 1, "unfused": 1}


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_argmax_takes_the_same_of_equal_values_everywhere(
    last: int, keepdims: int, tmp_path: Path
) -> None:
    """On CUDA there is none of integers, and among equal floats cuDNN takes any."""
    text = (
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g (int64[batch,sequence] x) => (int64[{'batch,1' if keepdims else 'batch'}] z)\n"
        f"{{ z = ArgMax <axis = 1, keepdims = {keepdims}, select_last_index = {last}> (x) }}"
    )
    model = ir.from_onnx_text(text)
    masks = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0], [7, -3, 7], [5, 6, 0]], np.int64)
    ir.save(model, tmp_path / "before.onnx")
    (expected,) = open_session(tmp_path / "before.onnx").run(None, {"x": masks})
    assert replace_argmax(model) == 1
    prune(model)
    assert "ArgMax" not in {node.op_type for node in model.graph}
    ir.save(model, tmp_path / "after.onnx")
    (observed,) = open_session(tmp_path / "after.onnx").run(None, {"x": masks})
    np.testing.assert_array_equal(observed, expected)


def test_numbers_of_a_shape_are_made_on_the_device(tmp_path: Path) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (int64[batch,sequence] x) => (int64[batch,sequence] z)\n"
        "{ sizes = Shape <start = 1> (x)\n"
        "tokens = Squeeze (sizes)\n"
        "one = Constant <value_int: int = 1> ()\n"
        "largest = Sub (tokens, one)\n"
        "zero = Constant <value_int: int = 0> ()\n"
        "positions = Range (zero, tokens, one)\n"
        "turned = Sub (largest, positions)\n"
        "z = Add (x, turned) }"
    )
    lifted(model)
    assert make_on_device(model) == 1
    ir.save(model, tmp_path / "model.onnx")
    (observed,) = open_session(tmp_path / "model.onnx").run(None, {"x": np.zeros((2, 4), np.int64)})
    np.testing.assert_array_equal(observed, [[3, 2, 1, 0]] * 2)
    (turned,) = [node for node in model.graph if node.outputs[0].name == "turned"]
    assert turned.inputs[0] is not None
    assert turned.inputs[0].name == "largest.on_device"


@pytest.mark.parametrize(
    ("left", "right", "repeated"),
    [
        ("batch,2,tokens,4", "1,2,4,6", [1]),
        ("batch,2,tokens,4", "2,4,6", [1]),
        ("1,2,3,4", "batch,2,4,tokens", [0]),
        ("batch,1,tokens,4", "1,2,4,6", [0, 1]),
        ("batch,2,tokens,4", "batch,2,4,tokens", []),
        ("batch,2,tokens,4", "1,1,4,6", []),
        ("batch,2,tokens,4", "4,6", []),
    ],
)
def test_a_side_that_a_part_of_the_batch_shares_is_repeated(
    left: str, right: str, repeated: list[int], tmp_path: Path
) -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g (float[{left}] x, float[{right}] y) => (float[a,b,c,d] z)\n"
        "{ z = MatMul (x, y) }"
    )
    sizes = {"batch": 5, "tokens": 3}
    random = np.random.default_rng(0)
    feed = {
        name: random.normal(size=[sizes.get(s) or int(s) for s in shape.split(",")]).astype("f4")
        for name, shape in (("x", left), ("y", right))
    }
    assert repeat_shared_sides(model) == len(repeated)
    (product,) = [node for node in model.graph if node.op_type == "MatMul"]
    sides = [value.producer() for value in product.inputs if value is not None]
    assert [i for i, side in enumerate(sides) if side is not None] == repeated
    ir.save(model, tmp_path / "model.onnx")
    (observed,) = open_session(tmp_path / "model.onnx").run(None, feed)
    np.testing.assert_allclose(observed, feed["x"] @ feed["y"], rtol=1e-5)
    for side in repeated:
        value = product.inputs[side]
        assert value is not None
        assert value.shape is not None
        batch = [sizes.get(str(size), size) for size in list(value.shape)[:-2]]
        assert batch == list(observed.shape)[:-2]


@pytest.mark.parametrize(
    ("joined", "behind", "made"),
    [("0, 0, 8", "z = Identity(c)", 1), ("-1, 8", "g = Gemm(c, weight) z = Reshape(g, tokens)", 0)],
    ids=["tokens by text", "tokens in a row, for a Gemm that export left as it is"],
)
def test_attention_with_a_mask_of_its_own_is_one_operator(
    joined: str, behind: str, made: int, tmp_path: Path
) -> None:
    def graph() -> ir.Model:
        weight = np.random.default_rng(1).normal(size=64).round(3).tolist()
        model = make(
            "{ heads = Constant <value_ints: ints = [0, 0, 2, 4]> ()"
            f" joined = Constant <value_ints: ints = [{joined}]> ()"
            " tokens = Constant <value_ints: ints = [2, 3, 8]> ()"
            " square = Constant <value_ints: ints = [8, 8]> ()"
            f" flat = Constant <value_floats: floats = {weight}> () weight = Reshape(flat, square)"
            " mask = Constant <value: tensor = float[1, 1, 3, 3] "
            "{0, -9000, -9000, 0, 0, -9000, 0, 0, 0}> ()"
            " xs = Reshape(x, heads) ys = Reshape(y, heads)"
            " q = Transpose<perm = [0, 2, 1, 3]>(xs) k = Transpose<perm = [0, 2, 3, 1]>(ys)"
            " v = Transpose<perm = [0, 2, 1, 3]>(ys)"
            " s = MatMul(q, k) half = Constant <value: tensor = float {0.5}> () t = Mul(s, half)"
            " m = Add(t, mask) p = Softmax<axis = -1>(m) o = MatMul(p, v)"
            f" r = Transpose<perm = [0, 2, 1, 3]>(o) c = Reshape(r, joined) {behind} }}"
        )
        return lifted(model)

    fused = graph()
    assert fuse_scores(fused) == made
    prune(fused)
    assert [node.op_type for node in fused.graph].count("Softmax") == 1 - made
    expected = run(graph(), tmp_path / "before.onnx")
    np.testing.assert_allclose(run(fused, tmp_path / "after.onnx"), expected, atol=1e-5)
