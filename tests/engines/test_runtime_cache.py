"""What TensorRT-RTX compiles is kept: against a fake that compiles each shape once."""

import gc
import hashlib
import subprocess
import sys
from pathlib import Path

import fake_tensorrt
import numpy as np
import pytest
from fake_cuda import FakeRuntime
from fake_tensorrt import FakeTensorRT, Profile

from pipeline.engines import runtime_cache, tensorrt
from pipeline.engines.cuda import Cuda
from pipeline.engines.gpu import is_installed
from pipeline.engines.runtime_cache import kernels_file
from pipeline.engines.tensorrt import TensorRTEncoder
from pipeline.errors import MeasureError
from pipeline.text.ragged import TokenBatch

PROFILES: list[Profile] = [((1, 1), (16, 24)), ((1, 25), (8, 48))]


class Process:
    """One that loads the plan anew: its CUDA, its TensorRT-RTX, its encoder."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kernels: Path | None, runtime: str = "tensorrt_rtx"
    ) -> None:
        cuda = FakeRuntime()
        self.module = FakeTensorRT(cuda, PROFILES)
        monkeypatch.setitem(sys.modules, runtime, self.module)
        monkeypatch.setattr(tensorrt, "Cuda", lambda: Cuda(cuda))
        self.encoder = TensorRTEncoder(Path("model.plan"), runtime, plan=b"plan", kernels=kernels)

    def run(self, *shapes: tuple[int, int]) -> int:
        """Encode batches of these shapes; return how many kernels were compiled for it."""
        before = len(self.module.compiled)
        for rows, tokens in shapes:
            ids = np.random.default_rng(tokens).integers(1, 99, (rows, tokens))
            ones = np.ones_like(ids)
            given = TokenBatch(input_ids=ids, attention_mask=ones, token_type_ids=ones)
            np.testing.assert_array_equal(self.encoder.encode(given), fake_tensorrt.outcome(ids))
        return len(self.module.compiled) - before


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    return kernels_file(tmp_path / "cache", "tensorrt_rtx-1.7.1.116-ampere_plus", "ab" * 32)


def test_the_next_process_compiles_nothing(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that is killed, too: it never closes its encoder."""
    first = Process(monkeypatch, kernels)
    assert first.run((2, 8), (4, 40)) == 2
    second = Process(monkeypatch, kernels)
    assert second.run((2, 8), (4, 40)) == 0
    assert second.run((1, 9)) == 1


def test_without_a_file_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Process(monkeypatch, None).run((2, 8)) == 1
    assert Process(monkeypatch, None).run((2, 8)) == 1


def test_tensorrt_itself_compiles_nothing_and_is_not_asked(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(monkeypatch, kernels, runtime="tensorrt").run((2, 8))
    assert not kernels.parent.exists()


def test_it_is_saved_after_the_first_run_and_ever_more_seldom(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(monkeypatch, kernels)
    saved = []
    for tokens in range(1, 21):
        before = kernels.read_bytes() if kernels.exists() else b""
        process.run((1, tokens))
        if kernels.read_bytes() != before:
            saved.append(tokens)
    assert saved == [1, 2, 4, 8, 16]
    del process  # its encoder is let go of, as when a server loads another bundle
    gc.collect()
    assert Process(monkeypatch, kernels).run(*((1, tokens) for tokens in range(1, 21))) == 0


def test_what_is_the_same_is_not_written_again(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Process(monkeypatch, kernels).run((2, 8))
    written = kernels.stat()
    Process(monkeypatch, kernels).run((2, 8))
    assert (kernels.stat().st_ino, kernels.stat().st_mtime_ns) == (
        written.st_ino,
        written.st_mtime_ns,
    )


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 500, None])
def test_a_damaged_file_never_reaches_the_parser(
    kernels: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
) -> None:
    """The fake's parser raises where the real one may end the process."""
    caplog.set_level("INFO", logger="pipeline")
    Process(monkeypatch, kernels).run((2, 8))
    kernels.write_bytes(kernels.read_bytes()[:-1] if content is None else content)
    assert Process(monkeypatch, kernels).run((2, 8)) == 1
    assert "not used: not the bytes that were written" in caplog.text
    assert Process(monkeypatch, kernels).run((2, 8)) == 0


def test_kernels_of_another_gpu_are_replaced(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT-RTX itself says so."""
    caplog.set_level("INFO", logger="pipeline")
    Process(monkeypatch, kernels).run((2, 8))
    content = kernels.read_bytes()[32:].replace(b"4090", b"5090")
    kernels.write_bytes(hashlib.sha256(content).digest() + content)
    assert Process(monkeypatch, kernels).run((2, 8)) == 1
    assert "TensorRT-RTX refuses it here" in caplog.text
    assert Process(monkeypatch, kernels).run((2, 8)) == 0


def test_it_grows_no_further(
    kernels: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    monkeypatch.setattr(runtime_cache, "MOST_BYTES", 1000)
    process = Process(monkeypatch, kernels)
    process.module.kernel_bytes = 200
    for tokens in range(1, 33):
        process.run((1, tokens))
    assert 500 < kernels.stat().st_size < 1100
    assert caplog.text.count("compiled kernels are not kept") == 1
    kernels.write_bytes(b"x" * 2000)
    assert Process(monkeypatch, kernels).run((1, 1)) == 1


@pytest.mark.parametrize("refuse", ["runtime cache", "serialize"])
def test_what_tensorrt_rtx_refuses_costs_no_vector(
    kernels: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    refuse: str,
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    process = Process(monkeypatch, kernels)
    process.module.refuse = refuse
    process.run((2, 8), (2, 8), (4, 40))
    assert not kernels.exists()
    assert str(kernels) in caplog.text


def test_a_place_that_cannot_be_written_costs_no_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    (tmp_path / "file").write_text("no directory")
    process = Process(monkeypatch, tmp_path / "file" / "x-1.kernels")
    process.run((2, 8), (4, 40), (4, 41))
    assert caplog.text.count("compiled kernels are not kept") == 1


def test_kernels_of_a_plan_that_was_replaced_go(
    kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = kernels.name.rpartition("-")[0]
    other = kernels_file(kernels.parent, "tensorrt_rtx-1.8.0-ampere_plus", "ab" * 32)
    older = kernels_file(kernels.parent, engine, "cd" * 32)
    kernels.parent.mkdir()
    for path in (older, other):
        path.write_bytes(b"")
    Process(monkeypatch, kernels).run((2, 8))
    assert sorted(kernels.parent.iterdir()) == sorted([kernels, other])


def test_they_are_nobody_elses(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Process(monkeypatch, kernels).run((2, 8))
    assert kernels.parent.stat().st_mode & 0o077 == 0


def test_no_configuration_is_one_line(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, kernels)
    process.module.refuse = "configuration"
    with pytest.raises(MeasureError, match=r"^tensorrt_rtx gives no runtime configuration$"):
        process.run((2, 8))


@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_the_real_bindings() -> None:
    """What is called is there and takes what it is given; a GPU is needed to call it."""
    code = """
import tensorrt_rtx as rtx
for owner, names in {
    rtx.ICudaEngine: "create_runtime_config",
    rtx.IRuntimeConfig: "create_runtime_cache set_runtime_cache "
        "set_execution_context_allocation_strategy",
    rtx.IRuntimeCache: "serialize deserialize",
}.items():
    for name in names.split():
        getattr(owner, name)
says = " ".join(rtx.ICudaEngine.create_execution_context.__doc__.split())
assert "runtime_config: tensorrt_rtx_bindings.tensorrt_rtx.IRuntimeConfig" in says, says
says = " ".join(rtx.IRuntimeCache.serialize.__doc__.split())
assert says.startswith("serialize(self: tensorrt_rtx_bindings.tensorrt_rtx.IRuntimeCache) -> "
    "tensorrt_rtx_bindings.tensorrt_rtx.IHostMemory"), says
says = " ".join(rtx.IRuntimeCache.deserialize.__doc__.split())
assert "Buffer) -> bool" in says, says  # typing_extensions or collections.abc, by Python
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
