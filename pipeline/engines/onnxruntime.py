"""Run a graph in ONNX Runtime on the CPU, or on CUDA where it is floating point."""

import logging
import os
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
import onnxruntime as ort

from pipeline.contracts import GRAPH_OUTPUT
from pipeline.engines.bound import CAPTURE, CUDA_TOKENS, BoundSession
from pipeline.engines.cores import usable_cores
from pipeline.engines.cuda import Cuda, missing
from pipeline.engines.gpu import has_cuda_driver
from pipeline.engines.slots import SLOTS
from pipeline.errors import MeasureError, first_line
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)

CACHED_TOKENS = 512
"""More tokens than this in a batch leave a core's own cache, and each token takes longer
(docs/adr/0009-model-onnx-for-cpus.md)."""

CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def has_cuda() -> bool:
    """Whether ONNX Runtime may run on a GPU here; whether it does, a session's providers say."""
    return has_cuda_driver() and CUDA in ort.get_available_providers()


def open_session(
    path: Path,
    *,
    cuda: bool = False,
    threads: int = 0,
    optimize: bool = True,
    profile: Path | None = None,
    graphs: bool = False,
) -> ort.InferenceSession:
    """Open a graph, and fail with ONNX Runtime's own words where it cannot be.

    ``graphs`` lets CUDA capture runs; it is refused for a graph that does not run on CUDA whole.
    ``threads`` 0 means all physical cores; ``profile`` begins the path of the profile that
    ``session.end_profiling()`` writes. The providers that really run are
    ``session.get_providers()``: asking for CUDA does not give CUDA.

    Raises:
        MeasureError: the file is not a graph that this ONNX Runtime runs.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # plans a shape when first seen; here every batch is one
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    providers: list[str | tuple[str, dict[str, str]]] = [_CPU]
    if cuda and has_cuda():
        ort.preload_dlls()  # finds the CUDA libraries that PyTorch's wheels bring
        # TF32 is its default; here fp32 means fp32, as in every plan and in the reference.
        # Its arena grows by what is asked for, not to the next power of two.
        settings = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        providers = [(CUDA, settings | ({"enable_cuda_graph": "1"} if graphs else {})), _CPU]
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise MeasureError(f"ONNX Runtime cannot open {path}: {first_line(error)}") from error


class OnnxRuntimeEncoder:
    """``model.onnx`` in ONNX Runtime.

    int8 stays on the CPU: ONNX Runtime's CUDA provider hands integer GEMMs back to the CPU and is
    many times slower than fp32 there. On CUDA inputs and outputs stay on the device and small
    batches are CUDA graphs where ``cuda-bindings`` is installed (``engines.bound``); how many
    tokens it takes at once is measured when it is opened.

    On a CPU many batches are done sooner one a core than one after another with every core on each:
    nothing waits for the slowest share of a GEMM. That takes a second session of one thread, which
    is opened when it is first of use and holds the weights once more.
    """

    def __init__(self, path: Path, *, cuda: bool = False, threads: int = 0) -> None:
        """Open the graph; ``threads`` 0 means all physical cores."""
        self.name = "onnxruntime"
        self._path = path
        self._opened = _identity(path)
        self.bound: BoundSession | None = None
        if cuda and has_cuda():
            self._session, self.bound = _open_on_cuda(path, threads)
        else:
            self._session = open_session(path, threads=threads)
        self.device = "cuda" if self._session.get_providers()[0] == CUDA else "cpu"
        self.max_tokens: int | None = CACHED_TOKENS if self.device == "cpu" else CUDA_TOKENS
        self.lanes = (threads or usable_cores()) if self.device == "cpu" else 1
        self.bucketed = self.bound is not None
        if self.bound is not None:
            self.lanes = SLOTS
            self.max_tokens = self.bound.measure_tokens()
            log.info("ONNX Runtime on CUDA: %d tokens at once", self.max_tokens)
        self._inputs = [i.name for i in self._session.get_inputs()]
        width = self._session.get_outputs()[0].shape[-1:]
        self.dimension = width[0] if width and isinstance(width[0], int) else None
        self._single: ort.InferenceSession | None = None
        self._opening = threading.Lock()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Return the embeddings of a batch, float32 ``[batch, dim]``."""
        if self.bound is not None:
            return self.bound.encode(batch)
        return self._run(self._session, batch)

    def encode_beside(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        """Encode with one core, while other threads do so with theirs; on CUDA take turns."""
        if self.bound is not None:
            return self.bound.encode(batch)
        return self._run(self._session if self.lanes == 1 else self._one_core(), batch)

    def _run(self, session: ort.InferenceSession, batch: TokenBatch) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = session.run([GRAPH_OUTPUT], batch.feed(self._inputs))[0]
        return result

    def _one_core(self) -> ort.InferenceSession:
        """Open the second session of the very file that was opened first, or stay with that."""
        with self._opening:
            if self._single is None:
                single = self._session
                if _identity(self._path) == self._opened:
                    single = open_session(self._path, threads=1)
                    if _identity(self._path) != self._opened:
                        single = self._session
                self._single = single
            return self._single


def _open_on_cuda(path: Path, threads: int) -> tuple[ort.InferenceSession, BoundSession | None]:
    """Open a session with CUDA graphs where it can have them, and without where not.

    Where CUDA opens the graph and cannot run it, for want of cuDNN say, the CPU does.
    """
    reason = missing()
    if reason is None:
        for graphs in (True, False):
            try:
                with CAPTURE:
                    session = open_session(path, cuda=True, threads=threads, graphs=graphs)
                if session.get_providers()[0] != CUDA:
                    return session, None
                bound = BoundSession(session, Cuda(), graphs=graphs)
                bound.encode(_one_token(), graph=False)
                return session, bound
            except MeasureError as error:
                reason = str(error)
                log.info("CUDA graphs %s: %s", "off" if graphs else "and bound buffers off", error)
    log.info("ONNX Runtime copies inputs and outputs itself: %s", reason)
    session = open_session(path, cuda=True, threads=threads)
    try:
        session.run(None, _one_token().feed([i.name for i in session.get_inputs()]))
    except Exception as error:  # onnxruntime's exceptions share no public base
        log.warning(
            "ONNX Runtime cannot run %s on CUDA, the CPU does: %s", path.name, first_line(error)
        )
        session = open_session(path, threads=threads)
    return session, None


def _one_token() -> TokenBatch:
    one = np.ones((1, 1), np.int64)
    return TokenBatch(input_ids=0 * one, attention_mask=one, token_type_ids=0 * one)


def _identity(path: Path) -> tuple[int, ...]:
    """Return what tells a graph and its data, and their last changes, from any other."""
    identity: list[int] = []
    for file in (path, path.with_name(f"{path.name}.data")):
        try:
            stat = file.stat()
        except OSError:
            continue
        identity += (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return tuple(identity)
