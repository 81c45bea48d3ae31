"""Every artifact comes back from JSON as it went in."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import NumericType
from pipeline.contracts import Engine, Graphs, OnnxModel, Profile, SourceModel, TensorSpec
from pipeline.flow.store.records import from_record, to_record


def model(path: Path) -> OnnxModel:
    return OnnxModel(
        path=path,
        sha256="a" * 64,
        precision=NumericType.fp16,
        inputs=(TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence")),),
        outputs=(TensorSpec(name="sentence_embedding", dtype="float32", shape=("batch", 384)),),
        source_sha256="b" * 64,
    )


def artifacts(work: Path) -> list[Any]:
    return [
        SourceModel(
            name="tiny",
            path=Path("/models/tiny"),
            assets=work / "resolve" / "assets",
            origin="hub",
            location="org/tiny@0",
            revision=None,
            candidates=("directory: not set",),
            weights={"model.safetensors": "c" * 64},
            sha256="c" * 64,
            max_length=256,
            dimension=384,
            modules=("Transformer", "Pooling"),
            pooling="mean",
            prompts={"query": "query: "},
            default_prompt=None,
            trust_remote_code=False,
        ),
        model(work / "export" / "model.onnx"),
        Graphs(
            portable=model(work / "optimize" / "model.onnx"),
            buildable=model(work / "quantize" / "signed.onnx"),
            quantization={"gemms": 36, "scale": 0.1, "gemm_list": [{"name": "a"}], "none": None},
        ),
        Engine(
            path=work / "build" / "x.plan",
            sha256="d" * 64,
            runtime="tensorrt_rtx",
            runtime_version="1.4",
            target="ampere_plus",
            profiles=(Profile(min=(1, 1), opt=(16, 32), max=(64, 32)),),
            inputs=(),
            outputs=(),
            layer_types={"float16": 3},
            source_sha256="e" * 64,
        ),
    ]


@pytest.mark.parametrize("index", range(4))
def test_round_trip_into_another_work_directory(tmp_path: Path, index: int) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    artifact = artifacts(before)[index]
    record = json.loads(json.dumps(to_record(artifact, before)))
    assert str(before) not in json.dumps(record)
    assert from_record(type(artifact), record, after) == artifacts(after)[index]


@pytest.mark.parametrize(
    "change",
    [{"path": None}, {"more": 1}, {"precision": "int3"}, {"inputs": [{"name": "x"}]}],
)
def test_another_shape_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    record = to_record(model(tmp_path / "model.onnx"), tmp_path) | change
    if change.get("path", 1) is None:
        del record["path"]
    with pytest.raises(ValueError, match="not a record of OnnxModel"):
        from_record(OnnxModel, record, tmp_path)
