"""Load a published bundle and encode text with it.

    from pipeline.runtime import load
    encoder = load("artifacts/minilm/int8")
    encoder.encode(["a sentence", "another"])      # float32 ndarray [2, dim]

Needs numpy, tokenizers and the runtime of the engine in use; PyTorch only where a TensorRT plan
is used.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.bundle.checker import ChangedError, Checker
from pipeline.bundle.manifest import manifest_bytes, parse_manifest
from pipeline.config import NumericType
from pipeline.contracts import CUDA_GRAPH
from pipeline.engines import Encoder
from pipeline.errors import BundleError, MeasureError
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import Tokenizer

__all__ = ["TextEncoder", "load"]

log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""Files are opened one after another; a bundle swapped in between is loaded from the start."""


def load(
    directory: str | Path, engine: str = "auto", *, manifest_sha256: str | None = None
) -> TextEncoder:
    """Load a bundle with its best engine for this machine, or with the ``engine`` named.

    ``engine`` is ``auto``, ``tensorrt``, ``tensorrt_rtx``, ``openvino`` or ``onnxruntime``.
    ``auto`` takes a TensorRT plan that fits this GPU and version (and logs why not), else ONNX
    Runtime on a GPU that it can use, else what ran ``model.onnx`` fastest on a CPU when the bundle
    was validated and is installed here; an engine that was named is taken or refused. Every file is
    checked against the manifest before it is opened, a plan by the very bytes that are
    deserialized. ``manifest_sha256`` pins the
    manifest itself.

    Raises:
        BundleError: no bundle there, a file that is not the one published, or the engine asked
            for cannot run here.
    """
    root = Path(directory)
    failure = BundleError(f"{root} is published again and again while it is loaded; try later")
    for _ in range(_ATTEMPTS):
        before = manifest_bytes(root)
        try:
            encoder = _load(root, before, engine, manifest_sha256)
        except ChangedError as error:
            failure = error
        except BundleError:
            if manifest_bytes(root) == before:
                raise
        else:
            if manifest_bytes(root) == before:
                return encoder
        log.info("%s was written while it was loaded: loading it anew", root)
    raise failure


def _load(root: Path, content: bytes, engine: str, sha256: str | None) -> TextEncoder:
    manifest = parse_manifest(root, content, sha256=sha256)
    checker = Checker(root, manifest)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        checker.path(name)
    model = manifest["model"]
    encoder = TextEncoder(
        Tokenizer(root, max_length=int(model["max_length"])),
        _open_engine(checker, manifest, engine),
        dimension=int(model["dimension"]),
        prompts=dict(model["prompts"]),
        default_prompt=model["default_prompt"],
    )
    checker.recheck()
    return encoder


def _open_engine(checker: Checker, manifest: dict[str, Any], wanted: str) -> Encoder:
    known = ("auto", "tensorrt", "tensorrt_rtx", "openvino", "onnxruntime")
    if wanted not in known:
        raise BundleError(f"engine {wanted!r}: expected one of {', '.join(known)}")
    reasons = []
    for plan in sorted(manifest["engines"], key=lambda plan: str(plan["runtime"])):
        runtime = plan["runtime"]
        if wanted not in ("auto", runtime):
            continue
        from pipeline.engines.tensorrt import TensorRTEncoder, obstacle

        reason = obstacle(runtime, plan["runtime_version"], plan["target"])
        if reason is None:
            content = checker.read(plan["file"])
            try:
                return TensorRTEncoder(Path(plan["file"]), runtime, plan=content)
            except MeasureError as error:
                reason = str(error)
        reasons.append(f"{plan['file']}: {reason}")
    if wanted in ("tensorrt", "tensorrt_rtx"):
        detail = "; ".join(reasons) or "the bundle holds no such engine"
        raise BundleError(
            f"engine {wanted}: {detail}: rebuild with python -m pipeline "
            f"model={manifest['model']['name']} precision={manifest['precision']} engine={wanted} "
            "on the machine that serves it, or load with engine='onnxruntime'"
        )
    for reason in reasons:
        log.info("not used: %s", reason)
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder, has_cuda

    cuda = manifest["precision_type"] != "int8"
    if wanted == "auto" and cuda and has_cuda():  # cpu_runtime is the faster one of CPUs only
        on_gpu = _open_on_gpu(checker)
        if on_gpu.device == "cuda":
            return on_gpu
    if wanted == "openvino" or (wanted == "auto" and manifest.get("cpu_runtime") == "openvino"):
        from pipeline.engines.openvino import OpenVINOEncoder, missing

        reason = missing()
        if reason is None:
            kind = NumericType(manifest["precision_type"])
            return _open_model(checker, lambda path: OpenVINOEncoder(path, kind))
        if wanted == "openvino":
            raise BundleError(f"engine openvino: {reason}; load with engine='onnxruntime'")
        log.info("not used: openvino: %s", reason)
    return (
        _open_on_gpu(checker) if cuda and has_cuda() else _open_model(checker, OnnxRuntimeEncoder)
    )


def _open_on_gpu(checker: Checker) -> Encoder:
    """Open the graph that is fused for CUDA where there is one, unless it does not get the GPU."""
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    def open_(path: Path) -> Encoder:
        return OnnxRuntimeEncoder(path, cuda=True)

    if checker.has(CUDA_GRAPH.as_posix()):
        encoder = _open_model(checker, open_, CUDA_GRAPH.as_posix())
        if encoder.device == "cuda":
            return encoder
    return _open_model(checker, open_)


def _open_model(
    checker: Checker, open_: Callable[[Path], Encoder], name: str = "model.onnx"
) -> Encoder:
    path = checker.graph(name)
    try:
        return open_(path)
    except MeasureError as error:
        raise BundleError(str(error)) from error
