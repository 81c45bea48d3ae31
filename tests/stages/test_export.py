import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from skipping import skip_without

from pipeline.config import Device, Exporter, NumericType
from pipeline.contracts import OnnxModel, SourceModel, TensorSpec
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import ExportError, ResolveError
from pipeline.graph.contract import meet_contract
from pipeline.graph.exporters import OPSET
from pipeline.stages import export as stage
from pipeline.stages.export import export
from pipeline.text.tokens import TokenBatch, Tokenizer
from pipeline.vectors import row_cosines

FloatArray = npt.NDArray[np.float32]
Distort = Callable[[FloatArray], FloatArray]


@pytest.fixture(params=["tiny_fp32", "tiny_optimum_fp32"], ids=["torch", "optimum"])
def exported(request: pytest.FixtureRequest) -> OnnxModel:
    """The tiny model's graph, by both exporters."""
    model: OnnxModel = request.getfixturevalue(request.param)
    return model


@pytest.fixture(scope="module")
def reference(tiny_source: SourceModel) -> TorchEncoder:
    return TorchEncoder(tiny_source, device=Device.cpu)


def slightly_off(embedding: FloatArray) -> FloatArray:
    """Return the embedding with a direction error far below what one would see in a score."""
    result = embedding.copy()
    result[0, 0] += 0.01
    return result


def dimensions(value: onnx.ValueInfoProto) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


# The graph contract


def test_inputs_are_int64_with_dynamic_batch_and_sequence(exported: OnnxModel) -> None:
    inputs = onnx.load(exported.path).graph.input
    names = [value.name for value in inputs]
    assert names[:2] == ["input_ids", "attention_mask"]
    assert set(names[2:]) <= {"token_type_ids"}
    for value in inputs:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert dimensions(value) == ["batch", "sequence"]


def test_the_torch_exporter_keeps_token_types(tiny_fp32: OnnxModel) -> None:
    assert [spec.name for spec in tiny_fp32.inputs][2:] == ["token_type_ids"]


def test_the_only_output_is_the_fp32_sentence_embedding(exported: OnnxModel) -> None:
    (output,) = onnx.load(exported.path).graph.output
    assert output.name == "sentence_embedding"
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert dimensions(output) == ["batch", 32]


def test_the_result_describes_the_graph(exported: OnnxModel, tiny_source: SourceModel) -> None:
    proto = onnx.load(exported.path)
    assert exported.precision is NumericType.fp32
    assert exported.source_sha256 == tiny_source.sha256
    assert exported.inputs == tuple(
        TensorSpec(name=value.name, dtype="int64", shape=("batch", "sequence"))
        for value in proto.graph.input
    )
    assert [spec.shape for spec in exported.outputs] == [("batch", 32)]


def test_the_graph_is_valid_onnx_of_the_default_domain_in_one_file(exported: OnnxModel) -> None:
    onnx.checker.check_model(str(exported.path), full_check=True)
    proto = onnx.load(exported.path)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", OPSET)]
    assert [file.name for file in exported.path.parent.iterdir()] == ["model.onnx"]


# What it computes


def test_the_graph_agrees_with_pytorch(
    exported: OnnxModel, reference: TorchEncoder, evaluation_batch: TokenBatch
) -> None:
    expected = reference.encode(evaluation_batch)
    observed = OnnxRuntimeEncoder(exported.path).encode(evaluation_batch)
    assert observed.dtype == np.float32
    assert row_cosines(expected, observed).min() >= 0.99999
    np.testing.assert_allclose(observed, expected, atol=1e-5)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 48), (5, 2), (3, 48)])
def test_any_batch_and_length_runs(
    rows: int, length: int, exported: OnnxModel, reference: TorchEncoder
) -> None:
    ids = np.random.default_rng(0).integers(1000, 30000, (rows, length))
    batch = TokenBatch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )
    observed = OnnxRuntimeEncoder(exported.path).encode(batch)
    np.testing.assert_allclose(observed, reference.encode(batch), atol=1e-5)


def test_a_row_of_padding_computes_what_pytorch_does(
    exported: OnnxModel, reference: TorchEncoder, tiny_tokenizer: Tokenizer
) -> None:
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(["one text", "another, longer text"]))
    batch.attention_mask[0] = 0
    observed = OnnxRuntimeEncoder(exported.path).encode(batch)
    np.testing.assert_allclose(observed, reference.encode(batch), atol=1e-5)
    assert np.isfinite(observed).all()


def test_the_torch_graph_uses_token_types_as_pytorch_does(
    tiny_fp32: OnnxModel, reference: TorchEncoder, tiny_tokenizer: Tokenizer
) -> None:
    batch = tiny_tokenizer.pad(tiny_tokenizer.rows(["one text"]))
    plain = OnnxRuntimeEncoder(tiny_fp32.path).encode(batch)
    batch.token_type_ids[:] = 1
    observed = OnnxRuntimeEncoder(tiny_fp32.path).encode(batch)
    np.testing.assert_allclose(observed, reference.encode(batch), atol=1e-5)
    assert not np.allclose(observed, plain, atol=1e-3)


# What is refused


@pytest.mark.many
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(
    value: float, make_tiny: Callable[..., Path], resolve_dir: Callable[[Path], SourceModel]
) -> None:
    def plant(bert: Any) -> None:
        bert.encoder.layer[1].output.dense.weight[3, 5] = value

    with pytest.raises(ResolveError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        resolve_dir(make_tiny(plant))


@pytest.mark.many
@pytest.mark.parametrize(
    "distort",
    [
        lambda embedding: embedding[:, ::-1],
        lambda embedding: 1.1 * embedding,
        lambda embedding: np.full_like(embedding, np.nan),
        np.zeros_like,
        lambda embedding: np.roll(embedding, 1, axis=0),
        slightly_off,
    ],
    ids=["other direction", "other norm", "NaN", "zeros", "other rows", "slightly off"],
)
def test_a_graph_that_disagrees_with_pytorch_is_refused(
    distort: Distort,
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Distorted(OnnxRuntimeEncoder):
        def encode(self, batch: TokenBatch) -> FloatArray:
            return distort(super().encode(batch))

    monkeypatch.setattr(stage, "OnnxRuntimeEncoder", Distorted)
    monkeypatch.setattr(stage, "trace", lambda *_: ir.load(tiny_fp32.path))
    with pytest.raises(ExportError, match=r"disagrees with PyTorch.*expected at least 0\.99999"):
        export(tiny_source, Exporter.torch, calibration_texts, tmp_path / "out")


@pytest.mark.parametrize("exporter", list(Exporter))
def test_an_exporter_that_fails_is_named_with_its_words_and_the_other_one(
    exporter: Exporter,
    tiny_source: SourceModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("no such\noperator")

    other = next(choice for choice in Exporter if choice is not exporter)
    skip_without(exporter)
    functions = {
        Exporter.torch: "torch.onnx.export",
        Exporter.optimum: "optimum.exporters.onnx.onnx_export_from_model",
    }
    monkeypatch.setattr(functions[exporter], fail)
    with pytest.raises(ExportError) as caught:
        export(tiny_source, exporter, ["a text"], tmp_path / "out")
    message = str(caught.value)
    assert f"exporter={exporter} cannot export" in message
    encoder = "BertModel" if exporter is Exporter.torch else "Transformer"
    assert f"({encoder} → Pooling → Normalize)" in message
    assert "NotImplementedError: no such operator" in message
    assert f"try exporter={other}" in message


def test_without_optimum_its_exporter_names_the_extra(
    tiny_source: SourceModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(ExportError) as caught:
        export(tiny_source, Exporter.optimum, ["a text"], tmp_path / "out")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("exporter=optimum: ")
    assert "pip install -c constraints-optimum.txt -e '.[optimum]'" in message
    assert "set exporter=torch" in message


@pytest.mark.parametrize(
    ("dtype", "given", "made", "message"),
    [
        ("int32", "input_ids", "sentence_embedding", "input_ids is INT32"),
        ("int64", "pixels", "sentence_embedding", "pixels is INT64"),
        ("int64", "input_ids", "last_hidden_state", r"outputs \['last_hidden_state'\]"),
    ],
    ids=["input type", "input name", "output name"],
)
def test_a_graph_of_another_contract_is_refused(
    dtype: str,
    given: str,
    made: str,
    message: str,
    tiny_source: SourceModel,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    graph = ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : 20]>
        graph ({dtype}[b,s] {given}) => (float[b,s] {made})
        {{ {made} = Cast <to = 1> ({given}) }}"""
    )
    monkeypatch.setattr(stage, "trace", lambda *_: graph)
    with pytest.raises(ExportError, match=message):
        export(tiny_source, Exporter.torch, ["a text"], tmp_path / "out")


def test_an_input_that_only_lends_its_shape_is_dropped(tiny_source: SourceModel) -> None:
    graph = ir.from_onnx_text(
        """<ir_version: 8, opset_import: ["" : 20]>
        graph (int64[b,s] input_ids, int64[b,s] attention_mask, int64[b,s] token_type_ids)
            => (float[b,s] sentence_embedding)
        { size = Shape(token_type_ids)
          both = Add(input_ids, attention_mask)
          shaped = Reshape(both, size)
          sentence_embedding = Cast <to = 1> (shaped) }"""
    )
    meet_contract(graph, tiny_source)
    assert [value.name for value in graph.graph.inputs] == ["input_ids", "attention_mask"]
    (size,) = [node for node in graph.graph if node.op_type == "Shape"]
    assert size.inputs[0] is graph.graph.inputs[0]
