"""rerun: an older bundle beside tonight's, in a process that may die."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from light_bundle import write_bundle

from pipeline import runtime
from pipeline.contracts import OnnxModel, SourceModel
from pipeline.flow.environment import describe_environment
from pipeline.history.judge import rerun
from pipeline.history.judge.rerun import RerunJob, time_beside
from pipeline.measure.speed import rounds
from pipeline.text.tokens import TokenBatch, Tokenizer


class FakeEngine:
    """An engine whose every call takes the same time on a simulated clock."""

    max_tokens: int | None = None
    bucketed = False

    def __init__(self, clock: list[float], seconds: float, device: str, fill: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.device = device
        self.fill = fill
        self.sizes: set[int] = set()

    def encode(self, batch: TokenBatch) -> npt.NDArray[np.float32]:
        self.clock[0] += self.seconds
        self.sizes.add(len(batch.input_ids))
        return np.full((len(batch.input_ids), 2), self.fill, dtype=np.float32)


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Tokenizer) -> dict[str, FakeEngine]:
    """The engines of bundles ``new`` and ``old``; new takes a tenth longer."""
    clock = [0.0]
    monkeypatch.setattr(rounds, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    engines = {
        "new": FakeEngine(clock, 0.011, "cpu", 1.0),
        "old": FakeEngine(clock, 0.010, "cpu", 1.0),
    }

    def load(directory: Any, engine: str) -> SimpleNamespace:
        assert engine == "onnxruntime"
        own = engines[Path(directory).name]
        return SimpleNamespace(
            engine=own, tokenizer=tiny_tokenizer, prompts={}, default_prompt=None
        )

    monkeypatch.setattr(runtime, "load", load)
    return engines


JOB = RerunJob(
    bundle="new",
    older={"the anchor": "old"},
    engine="onnxruntime",
    latency=False,
    device="cpu",
    machine=None,
    cuda=False,
    budget_s=1.0,
)


def test_a_slower_bundle_is_slower_every_time(engines: dict[str, FakeEngine]) -> None:
    (beside,) = rerun.run(JOB)
    assert beside.reason is None
    assert beside.name == "the anchor"
    assert [one.median for one in beside.speedups] == pytest.approx([10 / 11] * 2)
    assert beside.slower
    assert min(engines["new"].sizes) > 1
    engines["new"].sizes.clear()
    rerun.run(replace(JOB, latency=True))
    assert engines["new"].sizes == {1}


def test_a_faster_bundle_is_not_slower(engines: dict[str, FakeEngine]) -> None:
    engines["new"].seconds = 0.009
    assert not rerun.run(JOB)[0].slower


def test_another_device_says_nothing(engines: dict[str, FakeEngine]) -> None:
    engines["old"].device = "cuda"
    (beside,) = rerun.run(JOB)
    assert beside.speedups == ()
    assert beside.reason == "LookupError: runs on cuda, the night ran on cpu"


def test_another_machine_says_nothing(engines: dict[str, FakeEngine]) -> None:
    (beside,) = rerun.run(replace(JOB, machine="NVIDIA L4, another CPU"))
    assert beside.reason is not None
    assert beside.reason.endswith("is not the one of the night (NVIDIA L4, another CPU)")
    here = f"{describe_environment()['cpu']}, 2 threads"
    assert rerun.run(replace(JOB, machine=here))[0].reason is None


def test_what_gives_no_vectors_is_not_timed(engines: dict[str, FakeEngine]) -> None:
    engines["old"].fill = float("nan")
    assert rerun.run(JOB)[0].reason == "ValueError: it returns something else than vectors"


@pytest.fixture
def bundle(tiny_fp32: OnnxModel, tiny_source: SourceModel, tmp_path: Path) -> Path:
    """The tiny model as a bundle that loads, without what else is published."""
    return write_bundle(tmp_path / "bundle", tiny_source, tiny_fp32)


@pytest.mark.slow
def test_real_bundles_in_a_process_of_its_own(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    older = {"itself": str(bundle), "damaged": str(damaged)}
    itself, broken = time_beside(replace(JOB, bundle=str(bundle), older=older, budget_s=0.1))
    assert itself.reason is None
    assert len(itself.speedups) == 2
    assert all(0.2 < one.median < 5 for one in itself.speedups)
    assert broken.reason is not None
    assert broken.reason.startswith("BundleError: ")


def test_a_process_that_dies_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, signal; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (beside,) = time_beside(JOB)
    assert beside.reason == "the process ended with -9: no reason given"
