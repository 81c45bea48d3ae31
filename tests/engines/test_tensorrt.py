"""Plans on the device, against a CUDA and a TensorRT that are the CPU: no GPU where these run."""

import gc
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeRuntime
from fake_tensorrt import FakeTensorRT, Profile, outcome

from pipeline.engines import bound_plan, tensorrt
from pipeline.engines.bound_plan import PLAN_TOKENS
from pipeline.engines.buckets import MOST_TOKENS, Buckets
from pipeline.engines.cuda import Cuda, missing
from pipeline.engines.gpu import Gpu
from pipeline.engines.slots import SLOTS
from pipeline.engines.tensorrt import TensorRTEncoder
from pipeline.errors import MeasureError
from pipeline.text.ragged import TokenBatch

PROFILES: Sequence[Profile] = (((1, 1), (16, 24)), ((1, 25), (8, 48)))
PATH = Path("model.plan")
Opener = Callable[..., TensorRTEncoder]


@pytest.fixture
def cuda() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
def module(cuda: FakeRuntime) -> FakeTensorRT:
    return FakeTensorRT(cuda, PROFILES)


@pytest.fixture
def encoder(
    cuda: FakeRuntime, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> TensorRTEncoder:
    return open_plan(cuda, module, monkeypatch)


def open_plan(
    cuda: FakeRuntime, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> TensorRTEncoder:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt, "Cuda", lambda: Cuda(cuda))
    return TensorRTEncoder(PATH, "tensorrt", plan=b"plan")


def batch(rows: int, tokens: int, seed: int = 0) -> TokenBatch:
    ids = np.random.default_rng(seed).integers(1, 99, (rows, tokens))
    return TokenBatch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )


def check(encoder: TensorRTEncoder, rows: int, tokens: int, seed: int = 0) -> None:
    given = batch(rows, tokens, seed)
    np.testing.assert_array_equal(encoder.encode(given), outcome(given.input_ids))


# Shapes and profiles.


@pytest.mark.parametrize(
    ("rows", "tokens", "profile"), [(1, 1, 0), (16, 24, 0), (1, 25, 1), (8, 48, 1)]
)
def test_the_profile_that_takes_the_length(
    encoder: TensorRTEncoder, module: FakeTensorRT, rows: int, tokens: int, profile: int
) -> None:
    check(encoder, rows, tokens)
    assert module.runs == [(profile, (rows, tokens))]


def test_more_rows_than_a_profile_takes(encoder: TensorRTEncoder, module: FakeTensorRT) -> None:
    check(encoder, 13, 48)
    assert [shape for _, shape in module.runs] == [(8, 48), (5, 48)]


def test_rows_are_padded_to_a_bucket_and_no_further_than_the_profile(
    cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = FakeTensorRT(cuda, [((1, 1), (64, 24)), ((1, 25), (19, 48))])
    encoder = open_plan(cuda, module, monkeypatch)
    for tokens in (4, 30):
        check(encoder, 17, tokens)
        check(encoder, 19, tokens)
    assert module.runs == [(0, (18, 4)), (0, (20, 4)), (1, (18, 30)), (1, (19, 30))]


def test_a_length_outside_every_profile(encoder: TensorRTEncoder) -> None:
    with pytest.raises(MeasureError, match=r"^tensorrt: no optimization profile takes 49 tokens$"):
        encoder.encode(batch(1, 49))
    check(encoder, 1, 48)


def test_what_callers_are_told(encoder: TensorRTEncoder) -> None:
    assert (encoder.max_tokens, encoder.lanes, encoder.bucketed) == (16 * 24, SLOTS, True)
    assert (encoder.dimension, encoder.inputs) == (3, ["input_ids", "attention_mask"])


@pytest.mark.parametrize("shape", [(-1, -1), (-1, 0), (-1, 4, 3), (3,)])
def test_a_plan_that_gives_no_embeddings(
    shape: tuple[int, ...],
    cuda: FakeRuntime,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fake_tensorrt.Engine, "get_tensor_shape", lambda *_: shape)
    with pytest.raises(MeasureError, match=r"expected an output sentence_embedding \[batch, dim"):
        open_plan(cuda, module, monkeypatch)
    assert cuda.held == 0


def test_a_plan_of_another_output(
    cuda: FakeRuntime, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_tensorrt, "OUTPUT", "logits")
    with pytest.raises(MeasureError, match=r"model\.plan: .* sentence_embedding .*, saw None"):
        open_plan(cuda, module, monkeypatch)


def test_a_large_plan_gets_no_larger_buffers_than_a_batch_is_worth(
    cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = FakeTensorRT(cuda, [((1, 1), (256, 512))])
    encoder = open_plan(cuda, module, monkeypatch)
    assert encoder.max_tokens == PLAN_TOKENS
    # two inputs of 8 bytes and an output for 256 rows, on the device and pinned, twice
    assert cuda.held == 2 * SLOTS * (2 * 8 * PLAN_TOKENS + 4 * 256 * 3)
    check(encoder, 100, 512)
    assert [shape for _, shape in module.runs] == [(64, 512), (36, 512)]


def test_buffers_are_kept(encoder: TensorRTEncoder, cuda: FakeRuntime) -> None:
    for tokens in (24, 48):
        check(encoder, 1, tokens)
    held = set(cuda.memory)
    for seed in range(3):
        for rows, tokens in [(1, 1), (16, 24), (8, 48), (3, 30)]:
            check(encoder, rows, tokens, seed)
    assert set(cuda.memory) == held


# CUDA graphs.


def test_the_second_use_captures_and_the_third_replays(
    encoder: TensorRTEncoder, module: FakeTensorRT, cuda: FakeRuntime
) -> None:
    check(encoder, 4, 8, seed=1)
    assert (encoder.graphs, cuda.launched) == (0, [])
    check(encoder, 4, 8, seed=2)
    assert (encoder.graphs, cuda.launched) == (1, [])
    before = len(module.runs)
    check(encoder, 4, 8, seed=3)
    check(encoder, 4, 8, seed=4)
    assert len(cuda.launched) == 2
    assert len(module.runs) == before


def test_a_graph_survives_other_shapes(encoder: TensorRTEncoder, cuda: FakeRuntime) -> None:
    """It has a context of its own: the fake fails where a captured context is changed."""
    for seed in range(4):
        for shape in [(4, 8), (4, 9), (2, 30), (16, 24)]:
            check(encoder, *shape, seed=seed)
    assert encoder.graphs == 4
    assert len(cuda.launched) == 8


def test_large_batches_get_no_graph(cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_plan(cuda, FakeTensorRT(cuda, [((1, 1), (64, 512))]), monkeypatch)
    rows = MOST_TOKENS // 512 + 1
    for _ in range(4):
        check(encoder, rows, 512)
    assert encoder.graphs == 0


@pytest.mark.slow
def test_the_least_recently_used_goes_with_its_context(
    module: FakeTensorRT, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bound_plan, "Buckets", partial(Buckets, most=2))
    encoder = open_plan(cuda, module, monkeypatch)
    for tokens in (4, 5, 6, 7):
        for _ in range(3):
            check(encoder, 1, tokens)
    gc.collect()
    assert encoder.graphs == len(cuda.graphs) == 2
    assert len(module.contexts) == 3  # the profile's and two graphs'
    for tokens in (4, 5, 6, 7):
        check(encoder, 1, tokens)


def test_graphs_are_bounded_in_memory(
    encoder: TensorRTEncoder, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each capture takes 100 bytes more of the device; 250 are allowed."""
    monkeypatch.setattr(bound_plan, "MOST_GRAPH_BYTES", 250)
    instantiate = cuda.cudaGraphInstantiate

    def costly(graph: int, flags: int) -> tuple[int, int]:
        cuda.room -= 100
        return instantiate(graph, flags)

    monkeypatch.setattr(cuda, "cudaGraphInstantiate", costly)
    for tokens in range(1, 9):
        for _ in range(2):
            check(encoder, 1, tokens)
    assert encoder.graphs == len(cuda.graphs) == 2


@pytest.mark.slow
@pytest.mark.parametrize("capturable", [True, False])
def test_tensorrt_rtx_is_asked_whether_it_can_be_captured(
    cuda: FakeRuntime,
    module: FakeTensorRT,
    monkeypatch: pytest.MonkeyPatch,
    capturable: bool,
) -> None:
    """What is captured was compiled before: a swap of kernels afterwards ends a graph."""
    module.capturable = capturable
    module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    encoder = open_plan(cuda, module, monkeypatch)
    for seed in range(5):
        check(encoder, 2, 8, seed)
    assert module.specialized == ["lazy", "eager"][: 1 + capturable]
    gc.collect()
    assert encoder.graphs == int(capturable)
    assert len(cuda.launched) == 3 * capturable
    assert len(module.contexts) == 1 + capturable


@pytest.mark.slow
@pytest.mark.parametrize("what", ["capture", "second context"])
def test_a_capture_that_fails_turns_graphs_off_and_the_vectors_stay(
    encoder: TensorRTEncoder, module: FakeTensorRT, cuda: FakeRuntime, what: str
) -> None:
    """Also where the run before it fails half-way and leaves something else in the output."""
    module.refuse = what
    for seed in range(4):
        for tokens in (8, 9):
            check(encoder, 2, tokens, seed)
    assert (encoder.graphs, cuda.launched, cuda.captured) == (0, [], None)
    gc.collect()
    assert len(module.contexts) == 1


@pytest.mark.slow
def test_threads_share_an_encoder(encoder: TensorRTEncoder) -> None:
    """Sixteen threads, two slots, graphs captured meanwhile; the fake fails at two runs at once."""

    def work(seed: int) -> None:
        picker = np.random.default_rng(seed)
        for i in range(20):
            rows, tokens = (int(picker.integers(1, most)) for most in (9, 40))
            check(encoder, rows, tokens, seed + i)
            check(encoder, 2, 3 + i % 3, seed + i)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert encoder.graphs


# Errors.


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("context", "tensorrt gives no execution context: context refused"),
        ("profile", "tensorrt refuses profile 0: profile refused"),
        ("shape", r"tensorrt: shape \(1, 4\) of input_ids: shape refused"),
        ("address", "tensorrt: address of input_ids: address refused"),
        ("run", "tensorrt could not run a batch: run refused"),
    ],
)
def test_what_tensorrt_refuses_is_one_line(
    encoder: TensorRTEncoder, module: FakeTensorRT, what: str, words: str
) -> None:
    module.refuse = what
    for _ in range(SLOTS + 1):  # a slot that was not given back would block the last
        with pytest.raises(MeasureError, match=f"^{words}( \\| .*)*$"):
            encoder.encode(batch(1, 4))
    module.refuse = ""
    check(encoder, 1, 4)


def test_cudas_errors_have_its_words(
    encoder: TensorRTEncoder, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda stream: (1,))
    with pytest.raises(MeasureError, match=r"^CUDA: cudaStreamSynchronize: invalid argument$"):
        encoder.encode(batch(1, 4))


def test_a_plan_that_is_none(encoder: TensorRTEncoder, cuda: FakeRuntime) -> None:
    held, streams = cuda.held, set(cuda.streams)
    with pytest.raises(
        MeasureError, match=r"^tensorrt cannot load model\.plan: magic tag does not match$"
    ):
        TensorRTEncoder(PATH, "tensorrt", plan=b"half")
    assert (cuda.held, cuda.streams) == (held, streams)


def test_no_room_leaves_nothing_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    small = FakeRuntime(room=1000)
    with pytest.raises(MeasureError, match=r"^CUDA: cudaMalloc: out of memory$"):
        open_plan(small, FakeTensorRT(small, PROFILES), monkeypatch)
    assert (small.held, small.streams) == (0, set())


@pytest.mark.slow
def test_everything_is_given_back_with_the_encoder(
    cuda: FakeRuntime, module: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_plan(cuda, module, monkeypatch)
    for _ in range(3):
        check(encoder, 2, 8)
        check(encoder, 2, 40)
    assert encoder.graphs == 2
    del encoder
    gc.collect()
    assert (cuda.held, cuda.streams, cuda.graphs, len(module.contexts)) == (0, set(), {}, 0)


def test_a_context_for_others_memory(
    encoder: TensorRTEncoder, cuda: FakeRuntime, module: FakeTensorRT
) -> None:
    calls = Cuda(cuda)
    addresses = {
        name: calls.allocate(1000) for name in (*fake_tensorrt.INPUTS, fake_tensorrt.OUTPUT)
    }
    context: Any = encoder.bind((2, 30), addresses)
    assert (context.profile, context.addresses) == (1, addresses)
    assert context.execute_async_v3(calls.make_stream())


# What must be installed, and what need not be.


@pytest.mark.skipif(missing() is None, reason="cuda-bindings is installed")
def test_without_the_bindings_one_line_names_the_extra() -> None:
    with pytest.raises(MeasureError, match=r"^CUDA: .*cuda-bindings.*\(extra: gpu\)$"):
        TensorRTEncoder(PATH, "tensorrt", plan=b"plan")


@pytest.mark.parametrize("reason", [None, "Python package cuda-bindings is not installed"])
def test_a_plan_that_fits_needs_the_bindings(
    monkeypatch: pytest.MonkeyPatch, module: FakeTensorRT, reason: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    ada = Gpu(name="NVIDIA L4", compute_capability=(8, 9), driver=None)
    monkeypatch.setattr(tensorrt, "find_gpu", lambda: ada)
    monkeypatch.setattr(tensorrt, "is_installed", lambda _: True)
    monkeypatch.setattr(tensorrt, "missing", lambda: reason)
    assert tensorrt.obstacle("tensorrt", "11.4.0", "sm_89") == reason


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises
import numpy as np
from fake_cuda import FakeRuntime
from fake_tensorrt import FakeTensorRT, outcome
from pathlib import Path
from pipeline.engines import gpu, tensorrt
from pipeline.engines.cuda import Cuda
from pipeline.engines.opening import open_encoder
from pipeline.config import NumericType
from pipeline.text.ragged import TokenBatch
import pipeline.runtime

gpu.find_gpu()
runtime = FakeRuntime()
sys.modules["tensorrt"] = FakeTensorRT(runtime, [((1, 1), (16, 24))])
tensorrt.Cuda = lambda: Cuda(runtime)
path = Path(sys.argv[1])
path.write_bytes(b"plan")
encoder = open_encoder("tensorrt", path, NumericType.fp16)
ids = np.arange(1, 13).reshape(2, 6)
batch = TokenBatch(input_ids=ids, attention_mask=ids, token_type_ids=ids)
for _ in range(4):
    assert (encoder.encode(batch) == outcome(ids)).all()
assert len(runtime.launched) == 2
"""


def test_no_torch_is_imported(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}\n{WITHOUT_TORCH}"
    command = [sys.executable, "-c", code, str(tmp_path / "model.plan")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_bounds_are_what_the_page_says() -> None:
    assert (PLAN_TOKENS, bound_plan.MOST_GRAPH_BYTES) == (32_768, 1 << 30)
