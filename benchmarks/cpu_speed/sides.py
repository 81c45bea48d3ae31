"""What is timed: Sentence Transformers and other libraries as a user takes them, and bundles."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.int8_quality.environments import REQUIREMENTS as QUALITY_REQUIREMENTS

REFERENCE = "torch_fp32"
"""The side that ratios and cosines are relative to."""

_REQUIREMENTS = Path(__file__).parent / "requirements"
_OPENVINO = QUALITY_REQUIREMENTS / "openvino.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One library with one setting.

    ``peer`` names its script in ``peers/``, ``requirements`` what that needs (None: what this
    project needs), ``after`` a side whose export it loads. ``setting`` says what was asked for.
    """

    name: str
    title: str
    setting: str
    peer: str
    requirements: Path | None = None
    after: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


def all_sides(bundles: Sequence[Path]) -> list[Side]:
    """Return the reference first, the peers, then each bundle in each engine and in fastembed."""
    return [*_PEERS, *(side for bundle in bundles for side in _bundle(bundle))]


def _bundle(bundle: Path) -> list[Side]:
    """Return the sides of a bundle; precisions tell bundles apart."""
    engines = [
        Side(
            name=f"{bundle.name}_{engine}",
            title=f"**this project, `{bundle.name}`**, {engine}",
            setting=f'`load(…, engine="{engine}").encode`',
            peer="bundle",
            options={"bundle": str(bundle), "engine": engine},
        )
        for engine in ("onnxruntime", "openvino")
    ]
    served = Side(
        name=f"{bundle.name}_fastembed",
        title=f"fastembed on this project's `{bundle.name}`",
        setting="custom model, the bundle as it is",
        peer="fastembed_onnx",
        requirements=_REQUIREMENTS / "fastembed.txt",
        options={"bundle": str(bundle)},
    )
    return [*engines, served]


_PEERS = [
    Side(
        name=REFERENCE,
        title="Sentence Transformers, PyTorch fp32",
        setting="defaults",
        peer="st_torch",
        options={"dtype": "float32"},
    ),
    Side(
        name="torch_bf16",
        title="Sentence Transformers, PyTorch bf16",
        setting="`torch_dtype=bfloat16`",
        peer="st_torch",
        options={"dtype": "bfloat16"},
    ),
    Side(
        name="onnx_fp32",
        title="Sentence Transformers, ONNX fp32",
        setting='`backend="onnx"`',
        peer="st_onnx",
        options={"form": "fp32"},
    ),
    Side(
        name="onnx_o3",
        title="Sentence Transformers, ONNX O3",
        setting='`export_optimized_onnx_model(…, "O3")`; O4 is fp16 and for GPUs',
        peer="st_onnx",
        options={"form": "O3"},
    ),
    Side(
        name="onnx_int8",
        title="Sentence Transformers, ONNX int8",
        setting='`export_dynamic_quantized_onnx_model(…, "avx512_vnni")`',
        peer="st_onnx",
        options={"form": "int8"},
    ),
    Side(
        name="openvino_fp32",
        title="Sentence Transformers, OpenVINO fp32",
        setting='`backend="openvino"`; computes in bf16 where the CPU has it',
        peer="st_openvino",
        requirements=_OPENVINO,
        options={"form": "fp32"},
    ),
    Side(
        name="openvino_int8",
        title="Sentence Transformers, OpenVINO int8",
        setting="`export_static_quantized_openvino_model`, defaults, our calibration text",
        peer="st_openvino",
        requirements=_OPENVINO,
        options={"form": "int8"},
    ),
    Side(
        name="fastembed",
        title="fastembed, ONNX fp32",
        setting="custom model, the export of Sentence Transformers",
        peer="fastembed_onnx",
        requirements=_REQUIREMENTS / "fastembed.txt",
        after="onnx_fp32",
        options={"bundle": None},
    ),
    Side(
        name="embed_anything",
        title="EmbedAnything, fp32",
        setting="`from_pretrained_hf` (Candle)",
        peer="embed_anything_hf",
        requirements=_REQUIREMENTS / "embed_anything.txt",
    ),
    Side(
        name="ctranslate2_int8",
        title="CTranslate2 int8",
        setting="tokenized, sorted by length and pooled by the benchmark",
        peer="ctranslate2_int8",
        requirements=_REQUIREMENTS / "ctranslate2.txt",
    ),
]
