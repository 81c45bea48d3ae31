"""Run every engine of a bundle that runs here against the bundle's proof."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.bundle.engines import PLAN, EngineDirectory, Parent
from pipeline.bundle.proof import read_proof
from pipeline.config import NumericType
from pipeline.contracts import CUDA_GRAPH
from pipeline.engines import Encoder
from pipeline.errors import MeasureError
from pipeline.runtime.check import Checked, check_engine
from pipeline.runtime.choice import FUSED, runner
from pipeline.runtime.loading import text_encoder
from pipeline.text.tokens import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRun:
    """One engine of one file: what its check gave, or why it was not run."""

    runtime: str
    file: str
    checked: Checked | None = None
    reason: str | None = None


def run_all(parent: Parent, engines: Sequence[EngineDirectory]) -> Iterator[EngineRun]:
    """Yield ``model.onnx`` in ONNX Runtime and OpenVINO, ``cuda/model.onnx``, then each engine.

    What was verified is opened: whoever calls has done so.

    Raises:
        BundleError: the bundle has no proof.
    """
    proof = read_proof(parent.checker, parent.manifest)
    tokenizer = Tokenizer(parent.root, max_length=int(parent.manifest["model"]["max_length"]))
    for runtime, file, reason, open_ in _openers(parent, engines):
        if reason is not None:
            yield EngineRun(runtime=runtime, file=file, reason=reason)
            continue
        try:
            checked = check_engine(text_encoder(parent, tokenizer, open_()), proof)
        except MeasureError as error:
            yield EngineRun(runtime=runtime, file=file, reason=f"does not open: {error}")
        else:
            yield EngineRun(runtime=runtime, file=file, checked=checked)


_Opener = tuple[str, str, str | None, Callable[[], Encoder]]


def _openers(parent: Parent, engines: Sequence[EngineDirectory]) -> Iterator[_Opener]:
    """Yield runtime, file, the reason why it cannot run here if there is one, and how to open."""
    from pipeline.engines.openvino import missing

    path, kind = parent.root / "model.onnx", NumericType(parent.manifest["precision_type"])
    yield "onnxruntime", path.name, _without_onnxruntime(), partial(_onnxruntime, path, kind)
    without = missing() if kind is not NumericType.fp8 else "fp8 is for GPUs"
    yield "openvino", path.name, without, partial(_openvino, path, kind)
    if parent.checker.has(CUDA_GRAPH.as_posix()):
        fused = parent.root / CUDA_GRAPH
        yield FUSED, CUDA_GRAPH.as_posix(), _without_cuda(), partial(_fused, fused)
    for engine in engines:
        module, reason = runner(engine)
        yield engine.runtime, engine.file, reason, partial(_plan, engine, module or engine.runtime)


def _without_onnxruntime() -> str | None:
    from pipeline.engines.gpu import is_installed

    return None if is_installed("onnxruntime") else "Python package onnxruntime is not installed"


def _without_cuda() -> str | None:
    reason = _without_onnxruntime()
    if reason is not None:
        return reason
    from pipeline.engines.onnxruntime import has_cuda

    return None if has_cuda() else "ONNX Runtime has no CUDA device on this machine"


def _onnxruntime(path: Path, kind: NumericType) -> Encoder:
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    return OnnxRuntimeEncoder(path, cuda=kind not in (NumericType.int8, NumericType.fp8))


def _fused(path: Path) -> Encoder:
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    encoder = OnnxRuntimeEncoder(path, cuda=True)
    if encoder.device != "cuda":
        raise MeasureError("ONNX Runtime has a CUDA provider here and did not get the GPU with it")
    encoder.name = FUSED
    return encoder


def _openvino(path: Path, kind: NumericType) -> Encoder:
    from pipeline.engines.openvino import OpenVINOEncoder

    return OpenVINOEncoder(path, kind)


def _plan(engine: EngineDirectory, module: str) -> Encoder:
    from pipeline.engines.tensorrt import TensorRTEncoder

    content = engine.checker.read(PLAN)
    return TensorRTEncoder(Path(engine.file), module, plan=content)
