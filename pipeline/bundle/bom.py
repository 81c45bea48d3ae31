"""Write ``bom.cdx.json``: the bundle as a CycloneDX 1.6 machine-learning bill of materials.

The same run gives the same document but for its timestamp. Written here as plain JSON: the
library of the format has no model cards yet
(https://github.com/CycloneDX/cyclonedx-python-lib/issues/912); it validates ours in the tests.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from pipeline.source.origin import source_name

Data = dict[str, Any]

BOM = "bom.cdx.json"

_SPDX = {
    name.lower(): name
    for name in ("Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0")
}
"""The hub's names of licences are SPDX's in lower case, but not all of its are licences of SPDX."""

_MODEL = "bundle"
_WEIGHTS = "weights"


def make_bom(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> Data:
    """Return the bill of materials of the bundle that a manifest and a report describe."""
    data_sets = list(_data_sets(manifest, report))
    libraries = [_library(*item) for item in report["environment"]["packages"].items()]
    components = [_weights(manifest), *_artifacts(manifest), *data_sets, *libraries]
    refs = [component["bom-ref"] for component in components]
    bom: Data = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "sentence-transformer-trt",
                        "version": report["environment"]["pipeline"],
                    }
                ]
            },
            "component": _model(manifest, report, [item["bom-ref"] for item in data_sets]),
        },
        "components": components,
        "dependencies": [{"ref": _MODEL, "dependsOn": refs}, *({"ref": ref} for ref in refs)],
    }
    content = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}"
    bom["metadata"]["timestamp"] = manifest["created"]
    return bom


def _model(manifest: Mapping[str, Any], report: Mapping[str, Any], data_sets: list[str]) -> Data:
    model = manifest["model"]
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": f"{model['name']}-{manifest['precision']}",
        "version": _version(model),
        "description": f"{source_name(model)} as ONNX, GEMMs in {manifest['precision_type']}",
        **_license(model),
        "modelCard": {
            "modelParameters": {
                "task": "sentence-similarity",
                "architectureFamily": "transformer",
                "datasets": [{"ref": ref} for ref in data_sets],
                "inputs": [{"format": "text"}],
                "outputs": [{"format": f"float32 vector of {model['dimension']}"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(report))},
        },
    }


def _license(model: Mapping[str, Any]) -> Data:
    stated = model["license"]
    if stated is None:
        unknown = "unknown: the source of the weights states none"
        return {"properties": [{"name": "sentence-transformer-trt:license", "value": unknown}]}
    spdx = _SPDX.get(stated["id"])
    entry = {"id": spdx} if spdx else {"name": stated.get("name", stated["id"])}
    return {"licenses": [{"license": entry | {"acknowledgement": "declared"}}]}


def _version(model: Mapping[str, Any]) -> str:
    return model["revision"] or f"sha256:{model['weights_sha256']}"


def _metrics(report: Mapping[str, Any]) -> Iterator[Data]:
    """Yield what was measured; an artifact that was not executed has no metric."""
    for artifact in report["artifacts"]:
        if not artifact["executed"]:
            continue
        part = f"{artifact['file']} in {artifact['name']} on {artifact['device']}"
        cosine = artifact["agreement"]["cosine"]
        ends = cosine.get("ci95", {})
        for key in ("mean", "p1", "min"):
            name = f"cosine to PyTorch fp32, {key}, {report['dataset']}"
            yield _metric(name, cosine[key], part, ends.get(key))
        for name, task in artifact["tasks"].items():
            yield _metric(f"{task['metric']}, {name}", task["artifact"], part, None)
        speedup = artifact["throughput"]["speedup"]
        yield _metric("speed-up over PyTorch fp32", speedup["median"], part, speedup["ci95"])


def _metric(name: str, value: float | None, part: str, ends: list[float] | None) -> Data:
    interval = (
        {"confidenceInterval": {"lowerBound": str(ends[0]), "upperBound": str(ends[1])}}
        if ends
        else {}
    )
    return {"type": name, "value": str(value), "slice": part, **interval}


def _weights(manifest: Mapping[str, Any]) -> Data:
    model = manifest["model"]
    files = [
        {"type": "file", "bom-ref": f"{_WEIGHTS}/{name}", "name": name, "hashes": _hashes(sha256)}
        for name, sha256 in sorted(model["weights"].items())
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": _WEIGHTS,
        "name": model["base_model"] or source_name(model),
        "version": _version(model),
        "hashes": _hashes(model["weights_sha256"]),
        **_license(model),
        "components": files,
    }


def _artifacts(manifest: Mapping[str, Any]) -> Iterator[Data]:
    """Yield the graphs and engines by the sha256 of the lineage, the weights left out."""
    for step in manifest["lineage"][1:]:
        yield {
            "type": "file",
            "bom-ref": f"artifact/{step['artifact']}",
            "name": step["artifact"],
            "hashes": _hashes(step["sha256"]),
        }


def _data_sets(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[Data]:
    calibration = (manifest["quantization"] or {}).get("calibration")
    if calibration:
        words = f"{calibration['sentences']} sentences that int8 was calibrated on"
        yield _data_set("calibration text", calibration["sha256"], words)
    if report.get("dataset_sha256") is not None:
        words = "what the vectors were compared on; calibration did not see it"
        yield _data_set(f"evaluation text: {report['dataset']}", report["dataset_sha256"], words)


def _data_set(name: str, sha256: str, description: str) -> Data:
    return {
        "type": "data",
        "bom-ref": f"data/{name}",
        "name": name,
        "hashes": _hashes(sha256),
        "data": [{"type": "dataset", "name": name, "description": description}],
    }


def _library(name: str, version: str) -> Data:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='.')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _hashes(sha256: str) -> list[Data]:
    return [{"alg": "SHA-256", "content": sha256}]
