"""Load a published bundle and encode text with it.

    from pipeline.runtime import load
    encoder = load("artifacts/minilm/int8")
    encoder.encode(["a sentence", "another"])      # float32 ndarray [2, dim]

Needs numpy, tokenizers and the runtime of the engine in use, for a TensorRT plan cuda-bindings too.
PyTorch is never needed.
"""

import logging
import weakref
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline.bundle.checker import ChangedError, Checker
from pipeline.bundle.engines import Parent, open_parent
from pipeline.bundle.held import HeldDirectory
from pipeline.bundle.manifest import manifest_bytes
from pipeline.bundle.proof import read_proof
from pipeline.bundle.ranges import read_ranges
from pipeline.engines import Encoder
from pipeline.errors import BundleError
from pipeline.runtime.building import engine_cache, start_build
from pipeline.runtime.check import check_engine, require_passed
from pipeline.runtime.choice import Choice, open_engine, plan_fits
from pipeline.runtime.consistency import check_consistency, require_dimension
from pipeline.runtime.encoder import TextEncoder
from pipeline.text.tokens import Tokenizer

__all__ = ["TextEncoder", "load"]

log = logging.getLogger(__name__)

_ATTEMPTS = 5
"""Files are opened one after another; a bundle swapped in between is loaded from the start."""


def load(
    directory: str | Path,
    engine: str = "auto",
    *,
    manifest_sha256: str | None = None,
    engine_sha256: Collection[str] = (),
    check: bool = False,
    build: bool | Literal["wait"] = False,
    cache_dir: str | Path | None = None,
) -> TextEncoder:
    """Load a bundle with its best engine for this machine, or with the ``engine`` named.

    ``engine`` is ``auto``, ``tensorrt``, ``tensorrt_rtx``, ``openvino``, ``onnxruntime`` or
    ``onnxruntime_cuda``.
    ``auto`` takes a TensorRT plan that fits this GPU and version (and logs why not), else ONNX
    Runtime on a GPU that it can use, else what ran ``model.onnx`` fastest on a CPU when the bundle
    was validated and is installed here; an engine that was named is taken or refused. Every file is
    checked against its manifest before it is opened, a plan by the very bytes that are
    deserialized. ``manifest_sha256`` pins the bundle's manifest, ``engine_sha256`` those of its
    engines: with the one and without the other no plan is taken.

    ``check`` encodes some of the bundle's check texts and holds the engine to its gates.
    ``build`` builds an engine for this machine where none fits, in a process of its own, into
    ``cache_dir`` (``~/.cache/sentence-transformer-trt``), for the next ``load`` to take; until then
    ``model.onnx`` serves. ``"wait"`` waits for it and takes it now. With ``build``, or where
    ``cache_dir`` is given, engines are taken from there too, and TensorRT-RTX keeps the kernels
    there that it compiles for this GPU.

    Raises:
        BundleError: no bundle there, a file that is not the one published, an engine of another
            bundle, a check that failed, or the engine asked for cannot run here.
    """
    root = Path(directory)
    pinned = None if manifest_sha256 is None else frozenset(map(str.lower, engine_sha256))
    choice = Choice(wanted=engine, pinned=pinned)
    if not (build or cache_dir) or engine in ("openvino", "onnxruntime"):
        return _load(root, choice, manifest_sha256, check=check)
    parent = open_parent(root, manifest_sha256=manifest_sha256)
    cache = engine_cache(parent, cache_dir)
    choice = replace(choice, cache=cache)
    if build and not plan_fits(parent, choice):
        start_build(parent, cache, engine, wait=build == "wait")
        if build != "wait":
            choice = replace(choice, wanted="auto")
    return _load(root, choice, manifest_sha256, check=check)


def _load(root: Path, choice: Choice, sha256: str | None, *, check: bool) -> TextEncoder:
    failure = BundleError(f"{root} is published again and again while it is loaded; try later")
    for _ in range(_ATTEMPTS):
        before = manifest_bytes(root)
        try:
            encoder = _load_held(root, choice, sha256, check=check)
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


def _load_held(root: Path, choice: Choice, sha256: str | None, *, check: bool) -> TextEncoder:
    """Load what is in one directory, whatever takes its name meanwhile."""
    try:
        held = HeldDirectory(root)
    except OSError as error:
        raise BundleError(f"{root}: {error.strerror or error}") from error
    try:
        parent = open_parent(held.path, manifest_sha256=sha256)
        checker = parent.checker
        encoder = _load_once(parent, checker, choice, check=check)
    except BundleError as error:
        held.close()
        raise type(error)(str(error).replace(str(held.path), str(root))) from error
    except BaseException:
        held.close()
        raise
    # An engine may open its graph once more, with other settings.
    weakref.finalize(encoder, _let_go, held, checker)
    return encoder


def _let_go(held: HeldDirectory, _checker: Checker) -> None:
    held.close()


def _load_once(parent: Parent, checker: Checker, choice: Choice, *, check: bool) -> TextEncoder:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        checker.path(name)
    tokenizer = Tokenizer(parent.root, max_length=int(parent.manifest["model"]["max_length"]))
    engine = open_engine(parent, checker, choice)
    check_consistency(parent, tokenizer)
    encoder = text_encoder(parent, tokenizer, engine)
    proof = read_proof(checker, parent.manifest) if check else None
    checker.recheck()
    if proof is not None:
        require_passed(check_engine(encoder, proof, quick=True), parent.root)
    return encoder


def text_encoder(parent: Parent, tokenizer: Tokenizer, engine: Encoder) -> TextEncoder:
    """Put an engine behind a bundle's tokenizer and prompts.

    Raises:
        BundleError: the engine's vectors are of another length than the manifest states.
    """
    require_dimension(parent, engine)
    model = parent.manifest["model"]
    return TextEncoder(
        tokenizer,
        engine,
        dimension=int(model["dimension"]),
        prompts=dict(model["prompts"]),
        default_prompt=model["default_prompt"],
        embedding_ranges=read_ranges(parent.checker, parent.manifest),
    )
