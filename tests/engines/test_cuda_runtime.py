"""CUDA's calls, buckets, slots and bound sessions, against a CUDA that is the CPU's memory."""

import ctypes
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_cuda import FakeRuntime

from pipeline.engines import bound as module
from pipeline.engines import buckets as rules
from pipeline.engines.bound import BoundSession
from pipeline.engines.buckets import MOST_GRAPHS, MOST_TOKENS, Buckets, padded_rows
from pipeline.engines.cuda import Cuda, missing
from pipeline.engines.slots import SLOTS, Slot
from pipeline.errors import MeasureError
from pipeline.text.ragged import TokenBatch

NAMES = ("input_ids", "attention_mask")
DIMENSION = 3


def batch(rows: int, tokens: int, seed: int = 0) -> TokenBatch:
    ids = np.random.default_rng(seed).integers(1, 99, (rows, tokens))
    return TokenBatch(
        input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids)
    )


def expected(given: TokenBatch) -> npt.NDArray[np.float32]:
    ids = given.input_ids
    return np.stack([ids[:, 0], ids[:, -1], ids.sum(axis=1)], axis=1).astype(np.float32)


class FakeSession:
    """ONNX Runtime on CUDA: reads and writes the addresses it is bound to; keeps graphs by number.

    A graph that is replayed at other addresses or another shape than it was captured at fails, and
    so do two runs at a time, or in two threads: a graph is known to the thread that captured it.
    """

    def __init__(self, dimension: Any = DIMENSION) -> None:
        self.dimension = dimension
        self.runs: list[int] = []
        self.graphs: dict[int, Any] = {}
        self.running = threading.Lock()
        self.threads: set[int] = set()

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in NAMES]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="sentence_embedding", shape=["batch", self.dimension])]

    def io_binding(self) -> Any:
        bound: dict[str, tuple[tuple[int, int], int]] = {}

        def bind(name: str, device: str, index: int, kind: Any, shape: Any, address: int) -> None:
            assert (device, index) == ("cuda", 0)
            bound[name] = (tuple(shape), address)

        return SimpleNamespace(bind_input=bind, bind_output=bind, bound=bound)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.threads.add(threading.get_ident())
        assert len(self.threads) == 1, "two threads"
        assert self.running.acquire(blocking=False), "two runs at a time"
        try:
            number = int(options.get_run_config_entry("gpu_graph_id"))
            self.runs.append(number)
            if number >= 0:
                assert self.graphs.setdefault(number, binding.bound) == binding.bound
            time.sleep(0.001)
            shape, address = binding.bound["input_ids"]
            ids = _view(address, np.int64, shape)
            given = TokenBatch(input_ids=ids, attention_mask=ids, token_type_ids=ids)
            shape, address = binding.bound["sentence_embedding"]
            _view(address, np.float32, shape)[:] = expected(given)
        finally:
            self.running.release()


def _view(address: int, kind: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    size = np.dtype(kind).itemsize * int(np.prod(shape))
    return np.frombuffer((ctypes.c_byte * size).from_address(address), kind).reshape(shape)


def bind(session: FakeSession, runtime: FakeRuntime, tokens: int = 512) -> BoundSession:
    return BoundSession(session, Cuda(runtime), graphs=True, tokens=tokens)


# CUDA's calls.


def test_an_error_has_cudas_own_words() -> None:
    cuda = Cuda(FakeRuntime(room=100))
    with pytest.raises(MeasureError, match="CUDA: cudaMalloc: out of memory"):
        cuda.allocate(101)
    with pytest.raises(MeasureError, match="CUDA: cudaFree: invalid argument"):
        cuda.release(7)


def test_no_device() -> None:
    with pytest.raises(MeasureError, match="CUDA: no device on this machine"):
        Cuda(FakeRuntime(devices=0))


@pytest.mark.skipif(missing() is not None, reason="cuda-bindings is not installed")
def test_the_real_bindings_have_every_function_that_is_called() -> None:
    """And refuse in one line where there is no driver."""
    import cuda.bindings.runtime as real

    for name in dir(FakeRuntime):
        if name.startswith("cuda"):
            assert hasattr(real, name), name
    error, count = real.cudaGetDeviceCount()
    if int(error) != 0 or not count:
        with pytest.raises(MeasureError, match=r"^CUDA: "):
            Cuda()


@pytest.mark.skipif(missing() is None, reason="cuda-bindings is installed")
def test_without_the_bindings_it_says_what_to_install() -> None:
    with pytest.raises(MeasureError, match="cuda-bindings is not installed"):
        Cuda()


def test_what_was_captured_is_replayed() -> None:
    runtime = FakeRuntime()
    cuda, done = Cuda(runtime), []
    stream = cuda.make_stream()
    graph = cuda.capture(stream, lambda: runtime.enqueue(lambda: done.append(1)))
    assert not done
    cuda.replay(graph, stream)
    cuda.replay(graph, stream)
    assert done == [1, 1]
    cuda.destroy_graph(graph)
    assert not runtime.graphs


def test_a_capture_that_fails_ends() -> None:
    runtime = FakeRuntime()
    cuda = Cuda(runtime)

    def fail() -> None:
        raise MeasureError("cannot be captured")

    with pytest.raises(MeasureError, match="cannot be captured"):
        cuda.capture(cuda.make_stream(), fail)
    assert runtime.captured is None


def test_a_view_does_not_reach_beyond_the_memory() -> None:
    memory = Cuda(FakeRuntime()).allocate_pinned(16)
    assert memory.view(np.int64, (2, 1)).shape == (2, 1)
    with pytest.raises(ValueError, match="24 bytes of 16"):
        memory.view(np.int64, (3,))


# Buckets.


def test_rows_are_padded_to_few_numbers_where_graphs_are_of_use() -> None:
    few = {padded_rows(rows, 8) for rows in range(1, 513)}
    assert len(few) < 60
    assert all(rows <= padded_rows(rows, 8) <= 1.125 * rows for rows in range(16, 513))
    assert padded_rows(999, 128) == 999


def test_a_shape_gets_a_graph_when_it_comes_again() -> None:
    buckets: Buckets[str] = Buckets(None)
    assert not buckets.wants((1, 16))
    assert buckets.wants((1, 16))
    buckets.add((1, 16), "graph")
    assert buckets.find((1, 16)) == "graph"
    assert buckets.find((2, 16)) is None
    large = (MOST_TOKENS, 2)
    assert not any(buckets.wants(large) for _ in range(5))


def test_the_least_recently_used_graph_is_given_up() -> None:
    dropped: list[str] = []
    buckets: Buckets[str] = Buckets(dropped.append, most=2)
    for name in "ab":
        buckets.add((1, ord(name)), name)
    assert buckets.find((1, ord("a"))) == "a"
    buckets.add((1, 3), "c")
    assert dropped == ["b"]
    assert len(buckets) == 2
    buckets.clear()
    assert sorted(dropped) == ["a", "b", "c"]
    assert not any(buckets.wants((1, 4)) for _ in range(5))


def test_what_cannot_be_given_up_is_not_outgrown() -> None:
    buckets: Buckets[str] = Buckets(None, most=1)
    buckets.add((1, 1), "a")
    assert not any(buckets.wants((1, 2)) for _ in range(5))


def test_shapes_that_never_come_again_are_forgotten() -> None:
    buckets: Buckets[str] = Buckets(None)
    shapes = [(1, tokens) for tokens in range(1, 16 * MOST_GRAPHS + 2)]
    assert not any(buckets.wants(shape) for shape in shapes)
    assert not buckets.wants(shapes[0])  # the oldest of one too many: as if it had never come
    assert buckets.wants(shapes[-1])


# Sessions.


def test_the_batch_that_was_given_comes_back() -> None:
    runtime, session = FakeRuntime(), FakeSession()
    encoder = bind(session, runtime)
    for rows, tokens in [(1, 5), (1, 5), (1, 5), (17, 20), (17, 20), (18, 20), (3, 512), (300, 4)]:
        given = batch(rows, tokens, seed=rows)
        np.testing.assert_array_equal(encoder.encode(given), expected(given))
    assert session.runs[:3] == [-1, 1, 1]


def test_rows_in_one_bucket_share_a_graph() -> None:
    session = FakeSession()
    encoder = bind(session, FakeRuntime())
    for rows in (17, 18, 18, 17):
        given = batch(rows, 20, seed=rows)
        np.testing.assert_array_equal(encoder.encode(given), expected(given))
    assert encoder.graphs == 1


def test_graphs_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Buckets", lambda drop: Buckets(drop, most=3))
    session = FakeSession()
    encoder = bind(session, FakeRuntime())
    for _ in range(4):
        for tokens in range(1, 10):
            encoder.encode(batch(1, tokens))
    assert encoder.graphs == 3
    assert len(session.graphs) <= 3 * SLOTS


def test_a_session_that_may_not_capture_runs_without_graphs() -> None:
    session = FakeSession()
    encoder = BoundSession(session, Cuda(FakeRuntime()), graphs=False, tokens=64)
    for _ in range(4):
        encoder.encode(batch(1, 4))
    assert set(session.runs) == {-1}


def test_how_many_tokens_at_once_is_measured_without_a_graph() -> None:
    session = FakeSession()
    encoder = bind(session, FakeRuntime(), tokens=4096)
    assert encoder.measure_tokens() in (1024, 2048, 4096)
    assert set(session.runs) == {-1}
    assert encoder.graphs == 0
    for _ in range(3):
        encoder.encode(batch(1, 4), graph=False)
    assert set(session.runs) == {-1}


def test_threads_get_their_own() -> None:
    """Sixteen threads, two slots, one run at a time, graphs captured in between."""
    session = FakeSession()
    encoder = bind(session, FakeRuntime())

    def work(seed: int) -> bool:
        picker = np.random.default_rng(seed)
        return all(
            np.array_equal(encoder.encode(given), expected(given))
            for i in range(25)
            if (given := batch(int(picker.integers(1, 9)), int(picker.integers(1, 9)), seed + i))
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_a_text_longer_than_any_batch_is_refused() -> None:
    encoder = bind(FakeSession(), FakeRuntime(), tokens=64)
    with pytest.raises(MeasureError, match="a text of 65 tokens: at most 64"):
        encoder.encode(batch(1, 65))


def test_a_failed_run_gives_its_slot_back() -> None:
    session = FakeSession()

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA failure 700\nand more")

    encoder = bind(session, FakeRuntime())
    good = session.run_with_iobinding
    session.run_with_iobinding = fail  # type: ignore[assignment]
    for _ in range(SLOTS + 1):
        with pytest.raises(MeasureError, match=r"could not run \(1, 4\): CUDA failure 700$"):
            encoder.encode(batch(1, 4))
    session.run_with_iobinding = good  # type: ignore[method-assign]
    assert encoder.encode(batch(1, 4)).shape == (1, DIMENSION)


def test_no_room_leaves_nothing_allocated() -> None:
    one = FakeRuntime()
    slot = Slot(Cuda(one), 0, NAMES, 512, DIMENSION)
    small = FakeRuntime(room=one.held + 10)
    with pytest.raises(MeasureError, match="out of memory"):
        bind(FakeSession(), small)
    assert (small.held, small.streams) == (0, set())
    slot.close()
    assert (one.held, one.streams) == (0, set())


def test_a_dimension_that_is_not_in_the_graph() -> None:
    with pytest.raises(MeasureError, match="dimension 'dim' is not a number"):
        bind(FakeSession("dim"), FakeRuntime())


def test_the_rules_are_what_the_page_says() -> None:
    assert (rules.MOST_GRAPHS, rules.MOST_TOKENS, module.CUDA_TOKENS) == (64, 8192, 32_768)
