"""Write a bundle's model repository for Triton: tokenizer, encoder, and an ensemble.

Decisions and commands: docs/serving.md. Fields: Triton's ``model_config.proto``
(https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto).
"""

import json
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import pipeline
from pipeline.bundle.engines import PLAN, EngineDirectory, Parent
from pipeline.bundle.manifest import ENGINES, TRITON
from pipeline.bundle.place import publish_directory, staging
from pipeline.bundle.triton import tokenizer_step
from pipeline.bundle.triton.manifest import write_manifest
from pipeline.config import NumericType
from pipeline.contracts import Profile
from pipeline.errors import PublishError
from pipeline.files import link_or_copy

log = logging.getLogger(__name__)

MAX_BATCH = 64
"""Texts a request, and texts a batch, where no plan sets a limit."""

QUEUE_DELAY_US = 1000
"""How long a request waits for others to share its batch; small beside a batch's own time."""

QUEUE_TIMEOUT_US = 5_000_000
"""How long a request waits for a step before it is refused; a client may ask for less."""

MAX_QUEUE = 512
"""Requests that wait for a step; more are refused at once."""

_VERSION = "1"
_CUDA_PLAN = "tensorrt"

_MODULES = (
    "text/tokens.py",
    "text/ragged.py",
    "text/tokenizer_settings.py",
    "text/wrapping.py",
    "errors.py",
    "vectors.py",
)
"""What the tokenizer step imports."""


def write_triton(out: Path, parent: Parent, engines: Sequence[EngineDirectory]) -> None:
    """Write a bundle's model repository to ``out``, with a manifest that names the bundle.

    Models and plans are hard links. The encoder runs the TensorRT plans, one for each compute
    capability; without one it is ``model.onnx`` in ONNX Runtime. TensorRT-RTX plans are left out:
    Triton's backend is linked with TensorRT, which cannot load them.

    Raises:
        OSError: a file cannot be written.
    """
    plans = choose_plans(engines)
    model = parent.manifest["model"]
    name = model["name"]
    inputs = [spec["name"] for spec in parent.manifest["graph"]["inputs"]]
    common = {
        "name": name,
        "inputs": inputs,
        "dimension": model["dimension"],
        "max_batch": max_batch([profile for plan in plans for profile in plan.profiles]),
        "queue_delay_us": QUEUE_DELAY_US,
        "queue_timeout_us": QUEUE_TIMEOUT_US,
        "max_queue": MAX_QUEUE,
    }
    _write_config(out / name, "ensemble", common)
    # Triton wants a version of every model, and a bundle is moved file by file.
    (out / name / _VERSION).mkdir()
    (out / name / _VERSION / "README").write_text("config.pbtxt names the steps.\n", "utf-8")

    _write_config(out / f"{name}_tokenizer", "tokenizer", common)
    profiles = plans[0].profiles if plans else []
    _write_step(out / f"{name}_tokenizer" / _VERSION, parent, profiles)

    encoder = out / f"{name}_encoder"
    _write_config(encoder, "encoder", common | _encoder_fields(parent, plans))
    (encoder / _VERSION).mkdir()
    for plan in plans:
        link_or_copy(plan.root / PLAN, encoder / _VERSION / f"{plan.root.name}.plan")
    if not plans:
        for file in ("model.onnx", "model.onnx.data"):
            if (parent.root / file).exists():
                link_or_copy(parent.root / file, encoder / _VERSION / file)
    write_manifest(out, parent, plans)


def refresh_triton(parent: Parent, engines: Sequence[EngineDirectory]) -> None:
    """Put the repository for these engines in the old one's place, by one rename.

    Raises:
        PublishError: it cannot be written.
    """
    with staging(parent.root / ENGINES) as work:
        try:
            write_triton(work / TRITON, parent, engines)
        except OSError as error:
            raise PublishError(
                f"cannot write {parent.root / TRITON}: {error.strerror or error}"
            ) from error
        publish_directory(work / TRITON, parent.root / TRITON, locks=parent.root / ENGINES)


def choose_plans(engines: Sequence[EngineDirectory]) -> list[EngineDirectory]:
    """Return one TensorRT plan for each compute capability, all of the same profiles.

    The latest version first; a plan with other profiles would need another configuration, and is
    left out.
    """
    plans: dict[str, EngineDirectory] = {}
    for plan in sorted(engines, key=_version, reverse=True):
        if plan.runtime == _CUDA_PLAN and plan.target not in plans:
            plans[plan.target] = plan
    chosen = list(plans.values())
    same = [plan for plan in chosen if _lengths(plan) == _lengths(chosen[0])]
    for plan in chosen:
        if plan not in same:
            log.warning("triton/: %s has other profiles than %s", plan.root.name, chosen[0].root)
    return sorted(same, key=lambda plan: plan.target)


def _version(plan: EngineDirectory) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", plan.version)]


def _lengths(plan: EngineDirectory) -> list[tuple[int, int]]:
    return [(profile.min[1], profile.max[1]) for profile in plan.profiles]


def max_batch(profiles: Sequence[Profile]) -> int:
    """Return the most texts that every one of the optimization profiles takes."""
    return min((profile.max[0] for profile in profiles), default=MAX_BATCH)


def padded_lengths(max_length: int, profiles: Sequence[Profile] = ()) -> list[int]:
    """Return the few lengths that requests are padded to, so that they meet in a batch.

    Two between powers of two, from 16 on: at most half again as long as needed, a fifth on
    average. A profile's longest sequence is one of them, so that padding never leaves a profile.
    """
    steps = {n << k for n in (16, 24) for k in range(max_length.bit_length())}
    edges = {profile.max[1] for profile in profiles}
    return sorted({n for n in steps | edges if n < max_length} | {max_length})


def _write_step(directory: Path, parent: Parent, profiles: Sequence[Profile]) -> None:
    """Write the tokenizer step with the modules and files it reads, and nothing of this machine."""
    (directory / "pipeline").mkdir(parents=True)
    shutil.copyfile(tokenizer_step.__file__, directory / "model.py")
    (directory / "pipeline" / "text").mkdir()
    for name in _MODULES:
        shutil.copyfile(Path(pipeline.__file__).parent / name, directory / "pipeline" / name)
    for name in ("__init__.py", "text/__init__.py"):
        (directory / "pipeline" / name).write_text(
            '"""What the tokenizer step needs of the package that published the bundle."""\n',
            "utf-8",
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        link_or_copy(parent.root / name, directory / name)
    model = parent.manifest["model"]
    settings = {
        "max_length": model["max_length"],
        "lengths": padded_lengths(model["max_length"], profiles),
        "prompts": model["prompts"],
        "default_prompt": model["default_prompt"],
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (directory / "settings.json").write_text(text, "utf-8")


def _encoder_fields(parent: Parent, plans: Sequence[EngineDirectory]) -> dict[str, Any]:
    lengths = padded_lengths(parent.manifest["model"]["max_length"])
    if not plans:
        return {
            "platform": "onnxruntime_onnx",
            "plans": [],
            "cpu": parent.manifest["precision_type"] in (NumericType.int8, NumericType.fp8),
            "preferred": [],
            "warmup": [(1, lengths[0]), (1, lengths[-1])],
        }
    profiles = plans[0].profiles
    most = max_batch([profile for plan in plans for profile in plan.profiles])
    return {
        "platform": "tensorrt_plan",
        "plans": [(_compute_capability(plan.target), f"{plan.root.name}.plan") for plan in plans],
        "tensorrt": ", ".join(sorted({plan.version for plan in plans})),
        "profiles": ", ".join(f'"{i}"' for i in range(len(profiles))),
        "preferred": sorted({min(profile.opt[0], most) for profile in profiles} | {most}),
        "warmup": [(batch, profile.max[1]) for profile in profiles for batch in (1, most)],
    }


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
