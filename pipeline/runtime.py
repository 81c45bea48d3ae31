"""Load a published bundle and encode text with it.

    from pipeline.runtime import load
    encoder = load("artifacts/minilm/int8")
    encoder.encode(["a sentence", "another"])      # float32 ndarray [2, dim]

Needs numpy, tokenizers and the runtime of the engine in use; PyTorch only where a TensorRT plan
is used.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.bundle import ChangedError, Checker
from pipeline.config import NumericType
from pipeline.engines import Encoder
from pipeline.errors import BundleError, MeasureError
from pipeline.manifest import manifest_bytes, parse_manifest
from pipeline.tokens import Tokenizer, by_length

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

_ATTEMPTS = 5
"""Files are opened one after another; a bundle swapped in between is loaded from the start."""


class TextEncoder:
    """Text to embeddings: a tokenizer, an engine, and the model's prompts. Thread-safe."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        engine: Encoder,
        *,
        dimension: int,
        prompts: dict[str, str],
        default_prompt: str | None,
    ) -> None:
        """Put the parts together; ``load`` does so for a bundle."""
        self.tokenizer = tokenizer
        self.engine = engine
        self.dimension = dimension
        self.prompts = prompts
        self.default_prompt = default_prompt

    def encode(
        self,
        texts: Iterable[str] | str,
        batch_size: int = 32,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
    ) -> FloatArray:
        """Return one embedding a text, float32 ``[n, dim]`` in the order given (a str: ``[dim]``).

        Tokenizes, truncates and prompts as the Sentence Transformer does. Batches are sorted by
        length, so padding stays small, and split where the engine is faster on smaller ones; a
        text's vector does not depend on its batch.

        Raises:
            ValueError: ``batch_size`` below 1, or a prompt name the model does not have.
            TypeError: something in ``texts`` is not a str.
        """
        if isinstance(texts, str):
            only: FloatArray = self.encode(
                [texts], batch_size, prompt_name=prompt_name, prompt=prompt
            )[0]
            return only
        if batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size}")
        texts = list(texts)
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"expected texts of type str, got {type(text).__name__}")
        prefix = self._prompt(prompt_name, prompt)
        rows = self.tokenizer.rows([prefix + text for text in texts])
        embeddings = np.empty((len(rows), self.dimension), dtype=np.float32)
        for indices in by_length(rows, batch_size, self.engine.max_tokens):
            batch = self.tokenizer.pad([rows[i] for i in indices], bucketed=self.engine.bucketed)
            embeddings[indices] = self.engine.encode(batch)
        return embeddings

    def _prompt(self, name: str | None, prompt: str | None) -> str:
        """Resolve the prompt in Sentence Transformers' order: text, name, the model's default."""
        if prompt is not None:
            return prompt
        name = name if name is not None else self.default_prompt
        if name is None:
            return ""
        if name not in self.prompts and name not in ("query", "document"):
            known = ", ".join(sorted(self.prompts)) or "none"
            raise ValueError(f"prompt name {name!r}: the model has {known}")
        return self.prompts.get(name, "")


def load(
    directory: str | Path, engine: str = "auto", *, manifest_sha256: str | None = None
) -> TextEncoder:
    """Load a bundle with its best engine for this machine, or with the ``engine`` named.

    ``engine`` is ``auto``, ``tensorrt``, ``tensorrt_rtx``, ``openvino`` or ``onnxruntime``.
    ``auto`` takes a TensorRT plan that fits this GPU and version, else what ran ``model.onnx``
    fastest when the bundle was validated and is installed here, and logs why not a plan; an
    engine that was named is taken or refused. Every file is checked against the manifest before it
    is opened, a plan by the very bytes that are deserialized. ``manifest_sha256`` pins the
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
    if wanted == "openvino" or (wanted == "auto" and manifest.get("cpu_runtime") == "openvino"):
        from pipeline.engines.openvino import OpenVINOEncoder, missing

        reason = missing()
        if reason is None:
            kind = NumericType(manifest["precision_type"])
            return _open_model(checker, lambda path: OpenVINOEncoder(path, kind))
        if wanted == "openvino":
            raise BundleError(f"engine openvino: {reason}; load with engine='onnxruntime'")
        log.info("not used: openvino: %s", reason)
    from pipeline.engines.onnxruntime import OnnxRuntimeEncoder

    cuda = manifest["precision_type"] != "int8"
    return _open_model(checker, lambda path: OnnxRuntimeEncoder(path, cuda=cuda))


def _open_model(checker: Checker, open_: Callable[[Path], Encoder]) -> Encoder:
    path = checker.graph()
    try:
        return open_(path)
    except MeasureError as error:
        raise BundleError(str(error)) from error
