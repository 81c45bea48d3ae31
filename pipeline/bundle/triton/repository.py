"""Write a bundle's model repository for Triton: tokenizer, encoder, and an ensemble.

Decisions and commands: docs/serving.md. Fields: Triton's ``model_config.proto``
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto).
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import pipeline
from pipeline.bundle.triton import tokenizer_step
from pipeline.config import NumericType
from pipeline.contracts import Engine, OnnxModel, SourceModel
from pipeline.files import link_or_copy

MAX_BATCH = 64
"""Texts a request, and texts a batch, where no plan sets a limit."""

QUEUE_DELAY_US = 1000
"""How long a request waits for others to share its batch; small beside a batch's own time."""

_VERSION = "1"
_CUDA_PLAN = "tensorrt"


def write_triton(
    bundle: Path, source: SourceModel, model: OnnxModel, engines: Sequence[Engine]
) -> None:
    """Write ``triton/`` into a bundle that holds its tokenizer, ``model.onnx`` and plans.

    Models and plans are hard links. The encoder runs the TensorRT plans; without one it is
    ``model.onnx`` in ONNX Runtime. TensorRT-RTX plans are left out: Triton's backend is linked
    with TensorRT, which cannot load them.

    Raises:
        OSError: a file cannot be written.
    """
    root = bundle / "triton"
    plans = [engine for engine in engines if engine.runtime == _CUDA_PLAN]
    name = source.name
    common = {
        "name": name,
        "inputs": [spec.name for spec in model.inputs],
        "dimension": source.dimension,
        "max_batch": max_batch(plans),
        "queue_delay_us": QUEUE_DELAY_US,
    }
    _write_config(root / name, "ensemble", common)
    # Triton wants a version of every model, and a bundle is moved file by file.
    (root / name / _VERSION).mkdir()
    (root / name / _VERSION / "README").write_text("config.pbtxt names the steps.\n", "utf-8")

    _write_config(root / f"{name}_tokenizer", "tokenizer", common)
    _write_step(root / f"{name}_tokenizer" / _VERSION, bundle, source, plans)

    encoder = root / f"{name}_encoder"
    _write_config(encoder, "encoder", common | _encoder_fields(source, model, plans))
    (encoder / _VERSION).mkdir()
    for file in _encoder_files(bundle, plans):
        link_or_copy(file, encoder / _VERSION / file.name)


def max_batch(plans: Sequence[Engine]) -> int:
    """Return the most texts that every optimization profile of every plan takes."""
    return min((p.max[0] for plan in plans for p in plan.profiles), default=MAX_BATCH)


def padded_lengths(max_length: int, plans: Sequence[Engine] = ()) -> list[int]:
    """Return the few lengths that requests are padded to, so that they meet in a batch.

    Two between powers of two, from 16 on: at most half again as long as needed, a fifth on
    average. A profile's longest sequence is one of them, so that padding never leaves a profile.
    """
    steps = {n << k for n in (16, 24) for k in range(max_length.bit_length())}
    edges = {profile.max[1] for plan in plans for profile in plan.profiles}
    return sorted({n for n in steps | edges if n < max_length} | {max_length})


def _write_step(
    directory: Path, bundle: Path, source: SourceModel, plans: Sequence[Engine]
) -> None:
    """Write the tokenizer step with the modules and files it reads, and nothing of this machine."""
    (directory / "pipeline").mkdir(parents=True)
    shutil.copyfile(tokenizer_step.__file__, directory / "model.py")
    (directory / "pipeline" / "text").mkdir()
    for name in ("text/tokens.py", "errors.py", "vectors.py"):
        shutil.copyfile(Path(pipeline.__file__).parent / name, directory / "pipeline" / name)
    for name in ("__init__.py", "text/__init__.py"):
        (directory / "pipeline" / name).write_text(
            '"""What the tokenizer step needs of the package that published the bundle."""\n',
            "utf-8",
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        link_or_copy(bundle / name, directory / name)
    settings = {
        "max_length": source.max_length,
        "lengths": padded_lengths(source.max_length, plans),
        "prompts": dict(source.prompts),
        "default_prompt": source.default_prompt,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (directory / "settings.json").write_text(text, "utf-8")


def _encoder_fields(
    source: SourceModel, model: OnnxModel, plans: Sequence[Engine]
) -> dict[str, Any]:
    most = max_batch(plans)
    lengths = padded_lengths(source.max_length)
    if not plans:
        return {
            "platform": "onnxruntime_onnx",
            "plans": [],
            "cpu": model.precision is NumericType.int8,
            "preferred": [],
            "warmup": [(1, lengths[0]), (1, lengths[-1])],
        }
    profiles = plans[0].profiles
    return {
        "platform": "tensorrt_plan",
        "plans": [(_compute_capability(plan.target), plan.path.name) for plan in plans],
        "tensorrt": ", ".join(sorted({plan.runtime_version for plan in plans})),
        "profiles": ", ".join(f'"{i}"' for i in range(len(profiles))),
        "preferred": sorted({min(profile.opt[0], most) for profile in profiles} | {most}),
        "warmup": [(batch, profile.max[1]) for profile in profiles for batch in (1, most)],
    }


def _encoder_files(bundle: Path, plans: Sequence[Engine]) -> list[Path]:
    if plans:
        return [bundle / "engines" / plan.path.name for plan in plans]
    files = [bundle / "model.onnx", bundle / "model.onnx.data"]
    return [file for file in files if file.exists()]


def _compute_capability(target: str) -> str:
    """Return ``8.9`` for ``sm_89``."""
    digits = target.removeprefix("sm_")
    return f"{digits[:-1]}.{digits[-1]}"


def _write_config(directory: Path, template: str, fields: dict[str, Any]) -> None:
    directory.mkdir(parents=True)
    # No HTML is made here: a model's name goes into the text as it is.
    environment = Environment(  # noqa: S701
        loader=PackageLoader("pipeline.bundle.triton"), undefined=StrictUndefined, trim_blocks=False
    )
    text = environment.get_template(f"{template}.pbtxt").render(fields)
    (directory / "config.pbtxt").write_text(text + "\n", "utf-8")
