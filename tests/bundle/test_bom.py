"""bom: CycloneDX's own schema accepts it, and it says what the bundle is made of."""

import json
from pathlib import Path
from typing import Any

import pytest
from bundles import PLAN, manifest_of, publish_tiny
from example_report import VARIANTS, failed, int8

from pipeline.bundle.bom import make_bom
from pipeline.contracts import OnnxModel, SourceModel

Data = dict[str, Any]


def complaint(bom: Data) -> object:
    """Return what CycloneDX's schema has against it, or None."""
    version = pytest.importorskip("cyclonedx.schema").SchemaVersion.V1_6
    validator: Any = pytest.importorskip("cyclonedx.validation.json").JsonStrictValidator(version)
    found: object = validator.validate_str(json.dumps(bom))
    return found


@pytest.fixture(scope="session")
def manifest(tiny_bundle: Path) -> Data:
    """The manifest that a bundle was published with."""
    return manifest_of(tiny_bundle)


@pytest.fixture(scope="session")
def bom(tiny_bundle: Path) -> Data:
    """The bill of materials in it."""
    found: Data = json.loads((tiny_bundle / "bom.cdx.json").read_text("utf-8"))
    return found


def test_valid(bom: Data) -> None:
    assert complaint(bom) is None
    broken = bom | {"components": [{"type": "model"}]}
    assert complaint(broken) is not None


@pytest.mark.many
@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("stated", [None, "mit", "other", "unheard-of"])
def test_every_report_gives_a_valid_one(manifest: Data, variant: str, stated: str | None) -> None:
    licence = None if stated is None else {"id": stated, "name": "a licence", "link": "LICENSE"}
    model = manifest["model"] | {"license": licence}
    assert complaint(make_bom(manifest | {"model": model}, VARIANTS[variant]())) is None


def by_name(bom: Data) -> dict[str, Data]:
    return {component["name"]: component for component in bom["components"]}


def test_what_it_says(bom: Data, manifest: Data, tiny_source: SourceModel) -> None:
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["name"] == "tiny-int8"
    parts = by_name(bom)
    weights = parts["tiny"]
    assert weights["hashes"] == [{"alg": "SHA-256", "content": tiny_source.sha256}]
    assert str(tiny_source.path) not in json.dumps(bom)
    for step in manifest["lineage"][1:]:
        assert parts[step["artifact"]]["hashes"][0]["content"] == step["sha256"]
    assert PLAN not in parts  # an engine is made of the bundle, and no part of it
    assert parts["torch"]["purl"] == "pkg:pypi/torch@2.13.0%2Bcpu"
    calibration = int8()["quantization"]["calibration"]
    assert parts["calibration text"]["hashes"][0]["content"] == calibration["sha256"]
    refs = [item["ref"] for item in model["modelCard"]["modelParameters"]["datasets"]]
    assert refs == ["data/calibration text", "data/evaluation text: sample"]


def test_metrics_are_the_reports(bom: Data) -> None:
    card = bom["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    mean = metrics[0]
    assert mean["type"] == "cosine to PyTorch fp32, mean, sample"
    assert mean["value"] == "0.9995347"
    assert mean["slice"] == "model.onnx in onnxruntime on cpu"
    speed = metrics[-1]
    assert (speed["type"], speed["value"]) == ("speed-up over PyTorch fp32", "2.17")
    assert float(speed["confidenceInterval"]["lowerBound"]) < 2.17
    assert not any(PLAN in metric["slice"] for metric in metrics)  # it was not executed


def test_the_licence_is_the_sources_or_unknown(manifest: Data) -> None:
    def licences(stated: Data | None) -> tuple[Any, Any]:
        model = manifest["model"] | {"license": stated}
        component = make_bom(manifest | {"model": model}, int8())["metadata"]["component"]
        return component.get("licenses"), component.get("properties")

    spdx, nothing = licences({"id": "apache-2.0"})
    assert spdx == [{"license": {"id": "Apache-2.0", "acknowledgement": "declared"}}]
    assert nothing is None
    other, _ = licences({"id": "other", "name": "model-terms"})
    assert other == [{"license": {"name": "model-terms", "acknowledgement": "declared"}}]
    none, said = licences(None)
    assert none is None
    assert said[0]["value"].startswith("unknown")


def test_only_the_timestamp_differs(manifest: Data) -> None:
    first = make_bom(manifest, int8())
    later = make_bom(manifest | {"created": "2030-01-01T00:00:00+00:00"}, int8())
    assert first["metadata"].pop("timestamp") != later["metadata"].pop("timestamp")
    assert first == later
    assert first["serialNumber"] != make_bom(manifest, failed())["serialNumber"]


@pytest.mark.slow
def test_published_twice(
    bom: Data, tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    again = publish_tiny(tiny_source, tiny_fp32, tmp_path / "work", tmp_path / "again")
    second = json.loads((again / "bom.cdx.json").read_text("utf-8"))
    assert second["serialNumber"] == bom["serialNumber"]
