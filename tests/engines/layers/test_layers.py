"""The kernels of plans: read from what builders list, sized, classified, kept and counted."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.contracts import Graphs, OnnxModel, Profile, SourceModel
from pipeline.engines.gpu import is_installed
from pipeline.engines.layers.describe import describe_layers
from pipeline.engines.layers.inspector import parse_inspector
from pipeline.engines.layers.raw import RawLayer, RawTensor, numeric_type
from pipeline.engines.layers.records import (
    EngineLayers,
    Kind,
    Layer,
    Size,
    read_layers,
    write_layers,
)
from pipeline.engines.layers.rtx_log import parse_rtx_layers
from pipeline.engines.layers.summary import bytes_per_token, operations_per_token, summarize
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.stages.cast import cast

HERE = Path(__file__).parent
"""``rtx_1_7_1_*.log`` are parts of what TensorRT-RTX 1.7.1 logged for all-MiniLM-L6-v2 and 8.9."""

SHORT = Profile(min=(1, 1), opt=(8, 32), max=(16, 48))

needs_rtx = pytest.mark.skipif(
    not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed"
)


def logged(name: str) -> list[RawLayer]:
    return parse_rtx_layers((HERE / f"rtx_1_7_1_{name}.log").read_text("utf-8"))


def described(raw: Sequence[RawLayer]) -> EngineLayers:
    return describe_layers(raw, runtime="tensorrt_rtx", runtime_version="1.7.1.116")


# What a builder lists.


def test_a_logged_gemm_is_read_whole() -> None:
    gemm = logged("int8")[2]
    assert gemm.name == "node_MatMul_62+node_MatMul_54+node_MatMul_46_myl0_2"
    assert (gemm.layer_type, gemm.graph, gemm.tactic) == ("gemm", 0, "__myelin_CASK_STUB")
    assert gemm.inputs == (
        RawTensor(
            name="layer_norm.quantized.1_myl0", type="int8", dims=(-1, 384), strides=(384, 1)
        ),
    )
    assert [tensor.dims for tensor in gemm.constants] == [(384, 1152), (1,), (1,)]
    assert [(tensor.type, tensor.dims) for tensor in gemm.outputs] == [("fp16", (-1, 1152))]
    assert gemm.nodes[:2] == ("node_MatMul_62", "layer_norm.dequantize")
    assert len(gemm.nodes) == 7


def test_every_line_of_a_log_is_read_and_what_follows_the_layers_is_not() -> None:
    text = (HERE / "rtx_1_7_1_int8.log").read_text("utf-8")
    assert len(logged("int8")) == text.count("LayerType:") == 24
    assert "I/O Tensors:" in text


def test_a_log_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a layer of a TensorRT-RTX log: Name: a, Layer: b"):
        parse_rtx_layers("Layers:\nName: a, Layer: b\n")


def listed(name: str, read: str, nodes: str = "", written: str = "y") -> str:
    """A logged line of a GEMM that reads a token tensor."""
    tensor = "{{ Name: {}, Dimensions: [-1,8], Strides: [8,1], Datatype: Int8, Format: x }}"
    return (
        f"Name: {name}, LayerType: gemm, Inputs: [ {tensor.format(read)}], Constants: [], "
        f"Outputs: [ {tensor.format(written)}], TacticName: x, StreamId: 0, Metadata: {nodes}"
    )


def test_profiles_are_told_apart_by_marks_not_by_the_number_of_compiled_graphs() -> None:
    lines = [
        listed("a_myl0_1", "x"),
        listed("b_myl1_2", "y"),
        listed("c_myl2_1", "x [profile 1]", "[ONNX Layer: a [profile 1]][ONNX Layer: b]"),
        listed("d_myl2_2", "y", "[ONNX Layer: d]"),
    ]
    raw = parse_rtx_layers("\n".join(["Layers:", *lines]))
    assert raw[2].nodes == ("a", "b")
    found = described(raw)
    assert [layer.profile for layer in found.layers] == [0, 0, 1, 1]
    assert [layer.name for layer in found.of_profile(1)] == ["c_myl2_1", "d_myl2_2"]


def test_copies_of_shapes_to_the_device_are_read_and_are_no_kernels() -> None:
    line = (
        "Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: "
        "[ { Name: (Unnamed Layer* 798) [Shuffle]_output, Location: Device, Dimensions: [1], "
        "Datatype: Int64, Format: not available }], ParameterType: ShapeH2D, shapeValues0: [-7], "
        "TacticValue: 0x0, StreamId: 0, Metadata: "
    )
    (layer,) = parse_rtx_layers(f"Layers:\n{line}")
    assert layer.outputs[0].type == "int64"
    assert described([layer]).layers == ()


def test_a_gemm_that_converts_int8_first_computes_in_the_wider_type() -> None:
    tensor = "{{ Name: {}, Dimensions: [-1,8], Strides: [8,1], Datatype: {}, Format: x }}"
    line = (
        f"Name: __myl_CastMulFc_myl0_3, LayerType: runtime_fusion, Inputs: "
        f"[ {tensor.format('x', 'Int8')}, {tensor.format('w', 'Half')}], Constants: [], Outputs: "
        f"[ {tensor.format('y', 'Half')}], TacticName: , StreamId: 0, Metadata: [ONNX Layer: a]"
    )
    (layer,) = described(parse_rtx_layers(f"Layers:\n{line}")).layers
    assert (layer.kind, layer.type) == (Kind.gemm, "fp16")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Int8", "int8"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        ("Row major linear FP16 format (kLINEAR)", "fp16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
    ],
)
def test_types_by_their_names_in_lists(words: str, expected: str) -> None:
    assert numeric_type(words) == expected


# The inspector of TensorRT. Its JSON is put together from NVIDIA's documentation (the guide that
# tells what changes for inspectors from 10 to 11) and from the fields that public parsers of it
# read; no plan of TensorRT could be built where these tests were written.


def inspector_json(version: int) -> str:
    def tensor(name: str, kind: str, *dims: int) -> dict[str, object]:
        form = "Row major linear"
        about = {"Format/Datatype": kind} if version == 10 else {"Format": form, "Datatype": kind}
        return {"Name": name, "Dimensions": list(dims), **about}

    layers = [
        {
            "Name": "node_MatMul_3+node_MatMul_2+node_MatMul_1_myl0_2",
            "LayerType": "gemm",
            "Inputs": [tensor("x", "Int8", -1, 384)],
            "Outputs": [tensor("qkv", "Half", -1, 1152)],
            "TacticName": "sm80_xmma_gemm_i8f16_i8i32_f32_tn_n_tilesize128x128x64",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: node_MatMul_3]\x1f[ONNX Layer: node_MatMul_2]\x1f"
            "[ONNX Layer: node_MatMul_1]",
        },
        {
            "Name": "_gemm_mha_v2_myl0_5",
            "LayerType": "kgen",
            "Inputs": [tensor("q", "Half", -1, -1, 32), tensor("k", "Half", -1, 32, -1)],
            "Outputs": [tensor("a", "Half", -1, -1, 32)],
            "TacticName": "_gemm_mha_v2_0xedff",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: node_matmul]\x1f[ONNX Layer: node_softmax]",
        },
        {
            "Name": "__myl_FcAddDivErfAddMulMul_myl0_6",
            "LayerType": "fusion",
            "Inputs": [tensor("a", "Half", -1, 384)],
            "Outputs": [tensor("y", "Half", -1, 1536)],
            "TacticName": "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: node_MatMul_5]\x1f[ONNX Layer: node_gelu]",
        },
        {
            "Name": "Reformatting CopyNode for Output Tensor 0",
            "LayerType": "Reformat",
            "Inputs": [tensor("y", "Half", -1, 1536)],
            "Outputs": [tensor("z", "Half", -1, 1536)],
            "TacticName": "0x0",
            "StreamId": 0,
            "Metadata": "",
        },
    ]
    tail: dict[str, object] = (
        {"Bindings": ["input_ids"]}
        if version == 10
        else {"I/O Tensors": [{"Name": "input_ids", "IOMode": "Input", "DataType": "Int64"}]}
    )
    return json.dumps({"Layers": layers, **tail})


@pytest.mark.parametrize("version", [10, 11])
def test_both_forms_of_the_inspectors_json(version: int) -> None:
    layers = describe_layers(
        parse_inspector(inspector_json(version)), runtime="tensorrt", runtime_version="x"
    ).layers
    qkv, attention, intermediate, copy = layers
    assert qkv.nodes == ("node_MatMul_3", "node_MatMul_2", "node_MatMul_1")
    assert (qkv.kind, qkv.type, qkv.epilogue) == (Kind.gemm, "int8", False)
    assert qkv.operations == Size(factor=2 * 384 * 1152, b=1, s=1)
    assert (attention.kind, attention.type) == (Kind.attention, "fp16")
    assert (intermediate.kind, intermediate.type, intermediate.epilogue) == (
        Kind.gemm,
        "fp16",
        True,
    )
    assert copy.kind is Kind.move


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": ["only a name"]}', '{"Layers": [{"Name": "a"}]}', "{}"]
)
def test_names_without_detail_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"inspector's layers|Expecting value"):
        parse_inspector(text)


# Kinds and sizes.


def by_name(layers: Sequence[Layer], part: str) -> Layer:
    return next(layer for layer in layers if part in layer.name)


def test_kinds_of_a_logged_plan() -> None:
    layers = described([*logged("int8"), *logged("fp16")]).layers
    kinds = {
        "node_MatMul_62+": Kind.gemm,
        "__myl_FcAddDivCastErf": Kind.gemm,
        "_gemm_mha_v2": Kind.attention,
        "__myl_MoveReshTran": Kind.move,
        "__myl_MulAddReshTranReshMove": Kind.elementwise,
        "__myl_MulAddReshMulAddCastMeanSub": Kind.normalization,
        "__myl_ReshMaxMinReshDivMulSum": Kind.other,
    }
    assert {part: by_name(layers, part).kind for part in kinds} == kinds
    assert not any("signal" in layer.tactic or layer.name.startswith("__mye") for layer in layers)


def test_bytes_of_a_gemm_are_what_it_reads_and_writes_once() -> None:
    layers = described(logged("int8")).layers
    qkv = by_name(layers, "node_MatMul_62+")
    scalars = 2 * 4
    assert qkv.bytes_at(32, 128) == 4096 * 384 + 384 * 1152 + scalars + 2 * 4096 * 1152
    assert qkv.operations_at(32, 128) == 2 * 4096 * 384 * 1152


def test_a_slice_of_a_tensor_is_read_and_a_lookup_reads_rows() -> None:
    layers = described(logged("int8")).layers
    bias = by_name(layers, "__myl_MulAddReshTranReshMove_myl0_5")
    assert bias.inputs[0].size == Size(factor=384, b=1, s=1)
    words = next(t for t in layers[0].constants if t.dims == (30522, 384))
    assert words.bytes_at(1, 8) == 8 * 384 * 2
    assert words.bytes_at(1000, 1000) == 30522 * 384 * 2


def test_layers_are_kept_as_they_are(tmp_path: Path) -> None:
    found = described(logged("int8"))
    write_layers(found, tmp_path / "layers.json")
    assert read_layers(tmp_path / "layers.json") == found
    (tmp_path / "other.json").write_text('{"schema": 1, "layers": [{"name": 3}]}')
    with pytest.raises(ValueError, match=r"other\.json: not the kernels of a plan"):
        read_layers(tmp_path / "other.json")


# Plans of a whole model: two blocks of 12 linear GEMMs, built here.


@pytest.mark.slow
@needs_rtx
def test_an_int8_plan_of_a_whole_model(tiny_int8: Graphs) -> None:
    found = plan_of_graph(tiny_int8.buildable.path, "8.9", profile=SHORT)
    summary = summarize(found, 0)
    assert summary.gemms == {"int8": 12}
    assert summary.encoder_blocks == 2
    assert summary.kernels == len(found.layers) == sum(summary.kinds.values())
    assert 0 < summary.moves < summary.kernels


@pytest.mark.slow
@needs_rtx
def test_16_bits_move_fewer_bytes_than_32_for_the_same_operations(
    tiny_fp32: OnnxModel,
    tiny_source: SourceModel,
    calibration_texts: Sequence[str],
    tmp_path: Path,
) -> None:
    half = cast(tiny_fp32, tiny_source, calibration_texts, tmp_path / "cast")
    plans = {
        path: plan_of_graph(path, "8.9", profile=SHORT) for path in (tiny_fp32.path, half.path)
    }
    fp32, fp16 = (summarize(found, 0) for found in plans.values())
    assert (fp32.gemms, fp16.gemms) == ({"fp32": 12}, {"fp16": 12})
    layers32, layers16 = (found.layers for found in plans.values())
    assert bytes_per_token(layers16, 8, 32) < 0.6 * bytes_per_token(layers32, 8, 32)
    operations = operations_per_token(layers32, 8, 32)["fp32"]
    assert operations_per_token(layers16, 8, 32) == {"fp16": operations}
