"""Make ``report.json``, schema 1: keys may be added, never renamed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.contracts import CUDA_GRAPH, Engine, Graphs, NotBuilt, Report, SourceModel
from pipeline.measure.quality.search import SearchScores
from pipeline.measure.results import ArtifactResult, Gate, Validation
from pipeline.report.entries.arithmetic import emulation
from pipeline.report.entries.engine import engine_entry
from pipeline.report.entries.quality import agreement_entry, search_entry, task_entry
from pipeline.report.entries.speed import baseline_data, cold_data, latency_data, throughput_data


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long a stage took; ``cached`` where its result was taken from the store."""

    name: str
    seconds: float
    cached: bool = False


def bundle_name(path: Path) -> str:
    """Return a graph's path inside the bundle."""
    inside = path.parent.name == CUDA_GRAPH.parent.name
    return CUDA_GRAPH.as_posix() if inside else path.name


def make_report(
    *,
    source: SourceModel,
    precision: str,
    graphs: Graphs,
    engines: Sequence[Engine],
    not_built: Sequence[NotBuilt],
    validation: Validation,
    stages: Sequence[StageTime],
    environment: Mapping[str, Any],
) -> Report:
    """Put everything that was measured into the schema."""
    failed, latency = validation.failed_gates, validation.reference_latency
    by_path = {engine.path: engine for engine in engines}
    data: dict[str, Any] = {
        "schema": 1,
        "model": source.name,
        "precision": precision,
        "status": _status(validation),
        "failed_gates": list(failed),
        "source": {
            "location": source.location,
            "weights_sha256": source.sha256,
            "modules": list(source.modules),
            "pooling": source.pooling,
            "max_length": source.max_length,
            "dimension": source.dimension,
        },
        "reference": {
            "framework": "torch",
            "dtype": "float32",
            "device": validation.reference_device,
            "threads": validation.reference_threads,
            "tf32": False,
            "latency_ms": None if latency is None else latency_data(latency),
            "cold": cold_data(validation.reference_cold),
            **_search(validation.reference_search),
        },
        "baselines": [baseline_data(baseline) for baseline in validation.baselines],
        "dataset": validation.dataset,
        "dataset_sha256": validation.dataset_sha256,
        "artifacts": [_artifact(a, by_path.get(a.path), graphs) for a in validation.artifacts],
        "not_built": [{"name": item.runtime, "reason": item.reason} for item in not_built],
        "stages": [asdict(stage) for stage in stages],
        "environment": dict(environment) | _clocks(validation),
    }
    if graphs.quantization is not None:
        data["quantization"] = dict(graphs.quantization)
    return Report(passed=not failed, failed_gates=failed, data=data)


def _status(validation: Validation) -> str:
    if not validation.executed:
        return "unvalidated"
    return "failed" if validation.failed_gates else "passed"


def _types(graphs: Graphs) -> list[str]:
    """Return the types that a precision's GEMMs may have."""
    kind = graphs.buildable.precision.value
    said = graphs.quantization
    return [kind] if said is None else [kind, said["high_precision"]["engines"]]


def _artifact(result: ArtifactResult, engine: Engine | None, graphs: Graphs) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": result.name,
        "file": bundle_name(result.path) if engine is None else engine.file,
        "bytes": result.path.stat().st_size,
        "executed": result.reason is None,
    }
    if engine is not None:
        entry |= {
            "runtime_version": engine.runtime_version,
            "target": engine.target,
            "layer_types": dict(engine.layer_types),
        }
        runs = engine_entry(engine, _types(graphs))
        entry |= {} if runs is None else {"engine": runs}
    gates = [_gate(gate) for gate in result.gates]
    if result.reason is not None:
        return entry | {"reason": result.reason} | ({"gates": gates} if gates else {})
    latency = result.latency
    assert latency is not None
    emulated = emulation(graphs.portable.precision, result.name)
    if emulated is not None:
        entry["emulated"] = emulated
    if result.gemms is not None:
        entry["gemm_kernels"] = dict(result.gemms)
    if result.kernels is not None:
        entry["kernels"] = dict(result.kernels)
    return entry | {
        "device": result.device,
        "agreement": agreement_entry(result),
        "tasks": {name: task_entry(task) for name, task in result.tasks.items()},
        **_search(result.search),
        "throughput": throughput_data(result),
        "latency_ms": latency_data(latency),
        "cold": cold_data(result.cold),
        "gates": gates,
    }


def _search(scores: SearchScores | None) -> dict[str, Any]:
    return {} if scores is None else {"search": search_entry(scores)}


def _gate(gate: Gate) -> dict[str, Any]:
    return {
        "name": gate.name,
        "threshold": gate.threshold,
        "observed": gate.observed,
        "passed": gate.passed,
        "relative_to": gate.relative_to,
        "setting": gate.setting,
        "detail": gate.detail,
    }


def _clocks(validation: Validation) -> dict[str, Any]:
    samples = [dict(sample) for sample in validation.gpu_clocks]
    return {"gpu_clocks": samples} if samples else {}
