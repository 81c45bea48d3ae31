"""Run every engine of a bundle that runs here against the bundle's proof."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.bundle.engines import PLAN, EngineDirectory, Parent
from pipeline.bundle.proof import read_proof
from pipeline.config import NumericType
from pipeline.engines import Encoder
from pipeline.errors import MeasureError
from pipeline.runtime.check import Checked, check_engine
from pipeline.runtime.choice import runner
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
    """Yield ``model.onnx`` in ONNX Runtime and OpenVINO, then each engine.

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
    yield "openvino", path.name, missing(), partial(_openvino, path, kind)
    for engine in engines:
        module, reason = runner(engine)
        yield engine.runtime, engine.file, reason, partial(_plan, engine, module or engine.runtime)


def _without_onnxruntime() -> str | None:
    from pipeline.engines.gpu import is_installed

    return None if is_installed("onnxruntime") else "Python package onnxruntime is not installed"


def _onnxruntime(path: Path, kind: NumericType) -> Encoder:
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    return OnnxRuntimeEncoder(path, cuda=kind is not NumericType.int8)


def _openvino(path: Path, kind: NumericType) -> Encoder:
    from pipeline.engines.openvino import OpenVINOEncoder

    return OpenVINOEncoder(path, kind)


def _plan(engine: EngineDirectory, module: str) -> Encoder:
    from pipeline.engines.tensorrt import TensorRTEncoder

    content = engine.checker.read(PLAN)
    return TensorRTEncoder(Path(engine.file), module, plan=content)
