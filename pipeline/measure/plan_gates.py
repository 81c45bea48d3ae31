"""Hold what a plan runs, read from its own kernels, to the label of its precision."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import NumericType, PlanGatesConfig
from pipeline.engines.layers.records import EngineLayers, Kind, Layer
from pipeline.measure.results import Gate

ROOT = "validate.gates.plan"
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a precision's label says of the graph's GEMMs.

    ``int8`` are the ONNX nodes of the GEMMs that quantize put in int8 (of ``kind`` fp8: in fp8),
    with the names that the report gives them; every other computes in ``otherwise``.
    ``int8_attention``: so may attention.
    """

    kind: NumericType
    otherwise: str
    int8: Mapping[str, str]
    int8_attention: bool = False


def promise_of(kind: NumericType, quantization: Mapping[str, Any] | None) -> Promise:
    """Return what a precision promises, from what quantize says of itself."""
    if quantization is None:
        return Promise(kind=kind, otherwise=kind.value, int8={})
    return Promise(
        kind=kind,
        otherwise=quantization["high_precision"]["engines"],
        int8={g["node"]: g["name"] for g in quantization["gemm_list"] if g[kind.value]},
        int8_attention=bool(quantization[f"attention_gemms_{kind.value}"]),
    )


def apply_plan_gates(
    found: EngineLayers, promise: Promise, config: PlanGatesConfig
) -> tuple[Gate, ...]:
    """Return a gate for each share that has a threshold; the first kernels at fault are named."""
    fp8 = promise.kind is NumericType.fp8
    reduced = "fp8_gemms" if fp8 else "int8_gemms"
    faults = {
        reduced: _not_reduced(found, promise),
        "gemm_types": _of_another_type(found, promise),
        f"attention_fused.{promise.kind}": _not_fused(found),
    }
    thresholds: dict[str, float | None] = {
        reduced: config.fp8_gemms if fp8 else config.int8_gemms,
        "gemm_types": config.gemm_types,
        f"attention_fused.{promise.kind}": config.attention_fused.get(promise.kind),
    }
    return tuple(
        _gate(setting, threshold, *faults[setting])
        for setting, threshold in thresholds.items()
        if threshold is not None and faults[setting][0]
    )


def _gate(setting: str, threshold: float, of: int, faults: list[str]) -> Gate:
    shown = "; ".join(faults[:_SHOWN])
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return Gate(
        name=f"plan.{setting.partition('.')[0]}",
        threshold=threshold,
        observed=1 - len(faults) / of,
        setting=f"{ROOT}.{setting}",
        detail=f"{shown}{more}" if faults else None,
    )


def _not_reduced(found: EngineLayers, promise: Promise) -> tuple[int, list[str]]:
    """Return how many GEMMs were promised so, in all profiles, and those that are not."""
    profiles = sorted({layer.profile for layer in found.layers})
    faults = []
    for profile in profiles:
        kernels = {node: layer for layer in found.of_profile(profile) for node in layer.gemms}
        for node, name in promise.int8.items():
            kernel = kernels.get(node)
            if kernel is None:
                faults.append(f"{name} is in no GEMM of the plan")
            elif kernel.type != promise.kind.value:
                faults.append(f"{name} computes in {kernel.type} ({kernel.name})")
    return len(promise.int8) * len(profiles), faults


def _of_another_type(found: EngineLayers, promise: Promise) -> tuple[int, list[str]]:
    """Return how many GEMMs and attentions were not promised so, and those of another type.

    What the cast to fp16 left in fp32 on purpose may be in either.
    """
    kept = set(found.kept_fp32)
    total, faults = 0, []
    for layer, nodes in _products(found):
        rest = [node for node in nodes if node not in promise.int8]
        allowed = {promise.otherwise}
        if layer.kind is Kind.attention and promise.int8_attention:
            allowed.add(promise.kind.value)
        if kept.intersection(layer.nodes):
            allowed.add("fp32")
        total += len(rest)
        if rest and layer.type not in allowed:
            faults += [f"{node} computes in {layer.type} ({layer.name})" for node in rest]
    return total, faults


def _products(found: EngineLayers) -> Iterator[tuple[Layer, tuple[str, ...]]]:
    for layer in found.layers:
        if layer.kind is Kind.attention:
            yield layer, (layer.name,)
        elif layer.gemms:
            yield layer, layer.gemms


def _not_fused(found: EngineLayers) -> tuple[int, list[str]]:
    """Return how many blocks have attention, in all profiles, and those where it is in parts.

    Blocks with a product that fp16 could not hold, left in fp32 on purpose, are not judged: no
    compiler here fuses them, and no setting would.
    """
    judged = {mark: i for i, mark in enumerate(found.attention)}
    for mark in found.attention_in_fp32:
        judged.pop(mark, None)
    profiles = sorted({layer.profile for layer in found.layers})
    faults = []
    for profile in profiles:
        layers = found.of_profile(profile)
        fused = {n for layer in layers if layer.kind is Kind.attention for n in layer.nodes}
        for mark, block in judged.items():
            if mark not in fused:
                kernel = next((layer.name for layer in layers if mark in layer.nodes), "no kernel")
                faults.append(f"attention of block {block} is in parts ({mark} in {kernel})")
    return len(judged) * len(profiles), faults
