"""Keep the kernels that TensorRT-RTX compiles for this GPU from one process to the next.

A plan of TensorRT-RTX is for many GPUs; its kernels are compiled where it runs, when a shape is
first seen. Its ``IRuntimeCache`` holds them, and refuses what another GPU, driver or version
compiled
(https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-runtime-cache.html).
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from pipeline.errors import MeasureError
from pipeline.files import discard, write_bytes

log = logging.getLogger(__name__)

SUFFIX = ".kernels"

MOST_BYTES = 256 << 20
"""What would be larger is not written: the file stays as it was."""

_DIGEST_BYTES = hashlib.sha256().digest_size


class RuntimeCache:
    """The compiled kernels of one plan, in a file. Nothing that happens to the file fails a run.

    The file is the sha256 of TensorRT-RTX's own bytes, and these: what was cut off or damaged never
    reaches its parser. Not thread-safe. Of processes that use one file the last to save wins.
    """

    def __init__(self, path: Path, engine: Any) -> None:
        """Take over what is in the file, if it is whole and TensorRT-RTX takes it.

        ``engine`` is an ``ICudaEngine``, deserialized on the CUDA context that is current.

        Raises:
            MeasureError: TensorRT-RTX gives no configuration, or no cache.
        """
        self._path = path
        config = _given(engine.create_runtime_config(), "configuration")
        # Let go in this order: each outlives what it made.
        self._cache: Any = _given(config.create_runtime_cache(), "cache")
        self._config = config
        self._engine = engine
        self._runs = 0
        self._digest = b""
        self._off = False
        self._load()

    def configure(self, strategy: Any) -> Any:
        """Return a configuration for one context, which takes kernels from here and adds to them.

        ``strategy`` is how the context gets its working memory.

        Raises:
            MeasureError: TensorRT-RTX gives none.
        """
        config = configure(self._engine, strategy)
        if not config.set_runtime_cache(self._cache):
            log.info("%s: not used: TensorRT-RTX does not take a runtime cache", self._path)
            self._off = True
        return config

    def ran(self) -> None:
        """Note that a run ended, and save after the first, second, fourth, eighth … of them.

        A process that is killed has thus saved what half of its runs needed.
        """
        self._runs += 1
        if self._runs & (self._runs - 1) == 0:
            self.save()

    def save(self) -> None:
        """Write what was compiled since, by one rename; where that fails, log it once and stop."""
        if self._off:
            return
        try:
            self._save()
        except (OSError, ValueError) as error:
            log.info("%s: compiled kernels are not kept: %s", self._path, error)
            self._off = True

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file:
                content = file.read(_DIGEST_BYTES + MOST_BYTES + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            log.info("%s: not used: %s", self._path, error.strerror or error)
            return
        digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(kernels).digest() != digest:
            log.info("%s: not used: not the bytes that were written", self._path)
        elif not self._cache.deserialize(kernels):
            log.info("%s: not used: TensorRT-RTX refuses it here", self._path)
        else:
            log.info("%s: %.1f MiB of compiled kernels", self._path, len(kernels) / 2**20)
            self._digest = digest

    def _save(self) -> None:
        serialized = self._cache.serialize()
        if serialized is None:
            raise ValueError("TensorRT-RTX does not serialize them")
        kernels = bytes(serialized)
        if len(kernels) > MOST_BYTES:
            raise ValueError(f"{len(kernels)} bytes, at most {MOST_BYTES} are")
        digest = hashlib.sha256(kernels).digest()
        if digest == self._digest:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(self._path, digest + kernels)
        self._digest = digest
        engine = self._path.name.rpartition("-")[0]
        for other in self._path.parent.glob(f"{engine}-*{SUFFIX}"):  # of a plan that was replaced
            if other != self._path:
                discard(other)


def configure(engine: Any, strategy: Any) -> Any:
    """Return TensorRT-RTX's configuration for a context, by how that gets its working memory.

    Raises:
        MeasureError: TensorRT-RTX gives none.
    """
    config = _given(engine.create_runtime_config(), "configuration")
    config.set_execution_context_allocation_strategy(strategy)
    return config


def _given(made: Any, what: str) -> Any:
    if made is None:
        raise MeasureError(f"tensorrt_rtx gives no runtime {what}")
    return made


def kernels_file(cache: Path, engine: str, plan_sha256: str) -> Path:
    """Return where the kernels of an engine are kept: by its name and its plan."""
    return cache / f"{engine}-{plan_sha256[:16]}{SUFFIX}"
