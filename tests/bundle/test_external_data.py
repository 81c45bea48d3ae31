"""external data: every file that a graph would make a runtime open is found, wherever it hides."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import list_again
from onnx import TensorProto, helper

from pipeline.bundle.external_data import MESSAGES, external_locations
from pipeline.errors import BundleError
from pipeline.runtime import load


def tensor(location: str, name: str = "w") -> TensorProto:
    """A tensor whose bytes are elsewhere."""
    found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    found.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        found.external_data.add(key=key, value=value)
    return found


def graph(*initializers: TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.GraphProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    return helper.make_graph(list(nodes), "g", [], [output], initializer=list(initializers))


def in_initializer(location: str) -> onnx.ModelProto:
    return helper.make_model(graph(tensor(location)))


def in_constant(location: str) -> onnx.ModelProto:
    return helper.make_model(
        graph(nodes=(helper.make_node("Constant", [], ["y"], value=tensor(location)),))
    )


def in_branch(location: str) -> onnx.ModelProto:
    branch = graph(nodes=(helper.make_node("Loop", [], ["y"], body=graph(tensor(location))),))
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=graph())
    return helper.make_model(graph(nodes=(node,)))


def in_function(location: str) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["y"], value=tensor(location))
    function = helper.make_function("f", "F", [], ["y"], [node], [helper.make_opsetid("", 18)])
    return helper.make_model(graph(), functions=[function])


def in_sparse(location: str) -> onnx.ModelProto:
    model = helper.make_model(graph())
    model.graph.sparse_initializer.add().values.CopyFrom(tensor(location))
    return model


@pytest.mark.parametrize("hide", [in_initializer, in_constant, in_branch, in_function, in_sparse])
def test_found(hide: Callable[[str], onnx.ModelProto], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(hide("../outside").SerializeToString())
    assert external_locations(path) == {"../outside"}


def test_none(tmp_path: Path) -> None:
    weights = helper.make_tensor("w", TensorProto.FLOAT, [2], np.ones(2, np.float32))
    model = helper.make_model(graph(weights), producer_name="location")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "model.onnx") == set()


def test_fields_are_those_of_onnx() -> None:
    """A message that leads to external data by a field that we skip would hide it."""
    found: dict[str, dict[int, str]] = {}

    def leads_to_tensor(message: Any) -> bool:
        if message.name not in found:
            found[message.name] = {}  # it may hold itself
            for field in message.fields:
                inner = field.message_type
                if field.name == "external_data" or (inner and leads_to_tensor(inner)):
                    found[message.name][field.number] = inner.name
        return message.name in MESSAGES

    leads_to_tensor(onnx.ModelProto.DESCRIPTOR)
    assert {name: fields for name, fields in found.items() if fields} == MESSAGES


def test_cut_off_anywhere(tmp_path: Path) -> None:
    """Where protobuf refuses what is left, so do we."""
    content = in_branch("../outside").SerializeToString()
    path = tmp_path / "model.onnx"
    refused = 0
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        try:
            onnx.load_from_string(content[:size])
        except Exception:
            refused += 1
            with pytest.raises(BundleError, match=r"model\.onnx: not an ONNX graph"):
                external_locations(path)
    assert refused > len(content) / 2


def test_noise_ends_with_an_answer_or_a_refusal(tmp_path: Path) -> None:
    path, dice = tmp_path / "model.onnx", random.Random(0)
    content = in_function("../outside").SerializeToString()
    refused = 0
    for _ in range(300):
        noise = bytearray(content)
        for _ in range(3):
            noise[dice.randrange(len(noise))] = dice.randrange(256)
        path.write_bytes(noise)
        try:
            external_locations(path)
        except BundleError:
            refused += 1
    assert 0 < refused < 300


def test_messages_inside_each_other(tmp_path: Path) -> None:
    """A graph in an attribute of a node of a graph, and so on; each is a field before a length."""
    content = b""
    for tag in (b"\x32", b"\x2a", b"\x0a") * 50 + (b"\x3a",):
        size = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
        content = tag + size + content
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="more than 100 messages inside each other"):
        external_locations(tmp_path / "model.onnx")


# In a bundle.


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def move_weights(bundle: Path, location: str) -> None:
    """Move a graph's weights into a file, and let the manifest agree."""
    model = onnx.load(bundle / "model.onnx")
    onnx.save(
        model,
        bundle / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=1024,
    )
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    for initializer in model.graph.initializer:
        for entry in initializer.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    list_again(bundle, "model.onnx")


def test_data_beside_the_graph_is_checked_and_used(bundle: Path) -> None:
    expected = load(bundle, "onnxruntime").encode("text")
    move_weights(bundle, "model.onnx.data")
    with pytest.raises(BundleError, match=r"model\.onnx\.data: not in the manifest"):
        load(bundle, "onnxruntime")
    list_again(bundle, "model.onnx.data")
    np.testing.assert_allclose(load(bundle, "onnxruntime").encode("text"), expected, rtol=1e-6)
    os.truncate(bundle / "model.onnx.data", 100)
    with pytest.raises(BundleError, match=r"model\.onnx\.data: 100 bytes"):
        load(bundle, "onnxruntime")


@pytest.mark.many
@pytest.mark.parametrize(
    "location", ["../model.onnx.data", "/etc/passwd", "tokenizer.json", "./model.onnx.data", ""]
)
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_data_elsewhere(bundle: Path, location: str, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    move_weights(bundle, location)
    list_again(bundle, "model.onnx.data")
    with pytest.raises(BundleError, match=rf"model\.onnx: its tensors are in '{location}'"):
        load(bundle, engine)
