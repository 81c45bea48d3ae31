"""Rewrites of model.onnx: the same function, in the operators that CPUs run fast."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from architectures import ARCHITECTURES, LAYERS

from pipeline.config import Exporter, NumericType
from pipeline.contracts import Graphs, OnnxModel, SourceModel
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.errors import OptimizeError
from pipeline.graph.files import add_initializer, constant, load_graph, prune
from pipeline.graph.fuse_attention import fuse_attention
from pipeline.graph.fuse_kernels import keep_apart
from pipeline.graph.fuse_pooling import drop_expanded_mask
from pipeline.stages import optimize as stage
from pipeline.stages.optimize import optimize
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

ExportEncoder = Callable[[str, Exporter], tuple[SourceModel, OnnxModel]]


def operators(graph: ir.Model | Path) -> Counter[str]:
    model = ir.load(graph) if isinstance(graph, Path) else graph
    return Counter(node.op_type for node in model.graph)


def run_optimize(
    model: OnnxModel, source: SourceModel, texts: Sequence[str], out_dir: Path
) -> OnnxModel:
    return optimize(Graphs(portable=model, buildable=model), source, texts, out_dir).portable


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_vectors_alone_and_padded(
    name: str, export_encoder: ExportEncoder, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    source, fp32 = export_encoder(name, Exporter.torch)
    faster = run_optimize(fp32, source, evaluation_texts, tmp_path / "out")
    tokenizer = Tokenizer(source.assets, max_length=source.max_length)
    rows = tokenizer.rows(evaluation_texts)
    before, after = (OnnxRuntimeEncoder(model.path) for model in (fp32, faster))
    for batch in (tokenizer.pad(rows), *(tokenizer.pad([row]) for row in rows[:5])):
        np.testing.assert_allclose(after.encode(batch), before.encode(batch), atol=2e-6)


BLOCKS = [(name, Exporter.torch) for name in ARCHITECTURES]
BLOCKS += [(name, Exporter.optimum) for name in ("bert", "mpnet", "distilbert", "modernbert")]


@pytest.mark.parametrize(("name", "exporter"), BLOCKS)
def test_every_block_of_attention_is_one_operator(
    name: str, exporter: Exporter, export_encoder: ExportEncoder
) -> None:
    source, model = export_encoder(name, exporter)
    graph = load_graph(model)
    expected = 0 if name == "modernbert" else LAYERS  # rotary and local attention stay
    assert fuse_attention(graph, source.max_length) == (expected, LAYERS)
    prune(graph)
    assert operators(graph)["MultiHeadAttention"] == expected
    assert operators(graph)["Softmax"] == LAYERS - expected


def test_a_bias_of_the_scores_is_given_once_for_all_rows(export_encoder: ExportEncoder) -> None:
    source, model = export_encoder("mpnet", Exporter.torch)
    graph = load_graph(model)
    fuse_attention(graph, source.max_length)
    for node in graph.graph:
        if node.op_type == "MultiHeadAttention":
            bias = node.inputs[5]
            assert bias is not None
            assert bias.shape is not None
            assert bias.shape[0] == 1


def test_a_mask_that_only_dampens_is_left_alone(tiny_fp32: OnnxModel) -> None:
    graph = load_graph(tiny_fp32)
    lowest = [
        value
        for node in graph.graph
        if node.op_type in ("Mul", "Where")  # by the version of transformers
        for value in node.inputs[1:]
        if value is not None
        and (array := constant(value)) is not None
        and np.issubdtype(array.dtype, np.floating)
        and (array < -1e30).all()
    ]
    assert len(lowest) == 1
    lowest[0].replace_all_uses_with(
        add_initializer(graph.graph, "soft", np.array(-2.0, np.float32))
    )
    assert fuse_attention(graph, 48) == (0, LAYERS)


@pytest.mark.parametrize(("window", "fused"), [(1, 0), (4, 0), (40, 0), (47, 0), (48, LAYERS)])
def test_local_attention_of_any_window_is_left_alone(
    window: int, fused: int, tiny_fp32: OnnxModel, tiny_source: SourceModel
) -> None:
    """Of 48 tokens; with a window of 48 every token sees every other."""
    graph = load_graph(tiny_fp32)
    sums = [n.inputs[0].producer() for n in graph.graph if n.op_type == "Softmax" and n.inputs[0]]
    assert len(sums) == LAYERS
    (mask,) = set.intersection(*({*node.inputs} for node in sums if node is not None))
    assert mask is not None
    after = mask.producer()
    assert after is not None
    users = [(use.node, use.idx) for use in mask.uses()]
    local = _local(graph.graph, after, mask, window)
    for node, index in users:
        node.replace_input_with(index, local)
    assert tiny_source.max_length == 48
    assert fuse_attention(graph, tiny_source.max_length) == (fused, LAYERS)


def _local(graph: ir.Graph, after: ir.Node, mask: ir.Value, window: int) -> ir.Value:
    """Add to a mask what hides every token that is ``window`` tokens away or further."""
    last = after

    def add(operator: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        nonlocal last
        node = ir.node(operator, list(inputs), attributes)
        node.outputs[0].name = f"local.{operator}.{len(graph)}"
        graph.insert_after(last, node)
        last = node
        return node.outputs[0]

    def number(name: str, value: object, kind: type[np.generic] = np.int64) -> ir.Value:
        return add_initializer(graph, f"local.{name}", np.array(value, kind))

    ids = next(value for value in graph.inputs if value.name == "input_ids")
    length = add("Squeeze", add("Shape", ids, start=1, end=2), number("axis", [0]))
    places = add("Range", number("zero", 0), length, number("one", 1))
    down = add("Unsqueeze", places, number("down", [1]))
    far = add("GreaterOrEqual", add("Abs", add("Sub", down, places)), number("window", window))
    hidden = add("Mul", add("Cast", far, to=1), number("low", -1e4, np.float32))
    return add("Add", mask, hidden)


@pytest.mark.slow
def test_quantized_attention_stays(
    tiny_int8: Graphs, tiny_source: SourceModel, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    faster = run_optimize(tiny_int8.portable, tiny_source, evaluation_texts, tmp_path / "out")
    counts = operators(faster.path)
    before = operators(tiny_int8.portable.path)
    assert counts["MultiHeadAttention"] == LAYERS
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        assert counts[operator] == before[operator]


def test_onnxruntime_fuses_no_slow_kernel(tiny_fp32: OnnxModel, tmp_path: Path) -> None:
    def optimized(path: Path, name: str) -> Counter[str]:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / name)
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return operators(tmp_path / name)

    graph = load_graph(tiny_fp32)
    assert keep_apart(graph.graph) == 1 + 3 * LAYERS
    ir.save(graph, tmp_path / "apart.onnx")
    before = optimized(tiny_fp32.path, "before.onnx")
    after = optimized(tmp_path / "apart.onnx", "after.onnx")
    assert before["SkipLayerNormalization"] == 2 * LAYERS
    assert before["BiasGelu"] == LAYERS
    assert after["SkipLayerNormalization"] == after["BiasGelu"] == 0
    assert after["LayerNormalization"] == 1 + 2 * LAYERS


def test_pooling_reads_the_mask_as_it_is(tiny_fp32: OnnxModel) -> None:
    """Sentence Transformers 5 repeats it for every channel, 6 does not."""

    def repeated() -> int:
        casts = [node.inputs[0] for node in graph.graph if node.op_type == "Cast"]
        makers = [value.producer() for value in casts if value is not None]
        return sum(node is not None and node.op_type == "Expand" for node in makers)

    graph = load_graph(tiny_fp32)
    before = repeated()
    assert before == (metadata.version("sentence-transformers") < "6")
    assert drop_expanded_mask(graph.graph) == before
    prune(graph)
    assert repeated() == 0


def test_fp16_is_not_fused_for_cpus(
    tiny_fp32: OnnxModel, tiny_source: SourceModel, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    half = replace(tiny_fp32, precision=NumericType.fp16)
    graphs = Graphs(portable=half, buildable=half)
    optimized = optimize(graphs, tiny_source, evaluation_texts, tmp_path / "out")
    assert optimized.portable is half
    assert optimized.buildable.source_sha256 == half.sha256


@pytest.mark.slow
def test_what_runs_on_cpus_is_not_what_engines_are_built_from(
    tiny_int8: Graphs, tiny_source: SourceModel, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    graphs = optimize(tiny_int8, tiny_source, evaluation_texts, tmp_path / "out")
    assert "MultiHeadAttention" not in operators(graphs.buildable.path)
    for after, before in (
        (graphs.portable, tiny_int8.portable),
        (graphs.buildable, tiny_int8.buildable),
    ):
        assert after.path != before.path
        assert after.source_sha256 == before.source_sha256  # the graph before does not ship
    assert graphs.quantization is tiny_int8.quantization


@pytest.mark.slow
def test_nothing_to_rewrite_leaves_a_graph_as_it_is(
    tiny_int8: Graphs, tiny_source: SourceModel, evaluation_texts: Sequence[str], tmp_path: Path
) -> None:
    once = optimize(tiny_int8, tiny_source, evaluation_texts, tmp_path / "once")
    again = optimize(once, tiny_source, evaluation_texts, tmp_path / "again")
    assert again.buildable is once.buildable


def test_a_rewrite_that_changes_the_vectors_is_refused(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    evaluation_texts: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def spoil(graph: ir.Graph) -> int:
        name = next(name for name in graph.initializers if name.endswith("query.bias"))
        value = graph.initializers[name]
        array = constant(value)
        assert array is not None
        value.const_value = ir.tensor(array + 3, name=name)
        return 1

    monkeypatch.setattr(stage, "keep_apart", spoil)
    with pytest.raises(OptimizeError, match=r"cosine 0\.\d+, expected.*optimize=false"):
        run_optimize(tiny_fp32, tiny_source, evaluation_texts, tmp_path / "out")


@pytest.mark.slow
def test_long_and_short_rows_agree_in_int8(
    tiny_int8: Graphs,
    tiny_source: SourceModel,
    evaluation_texts: Sequence[str],
    evaluation_batch: TokenBatch,
    tmp_path: Path,
) -> None:
    faster = run_optimize(tiny_int8.portable, tiny_source, evaluation_texts, tmp_path / "out")
    before, after = (
        OnnxRuntimeEncoder(model.path).encode(evaluation_batch)
        for model in (tiny_int8.portable, faster)
    )
    assert row_cosines(before, after).min() > 0.9999
