"""precision=auto: what is tried, what is published, and what the table says. The tiny model."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
import pytest

from pipeline.__main__ import main
from pipeline.engines.gpu import find_gpu, is_installed
from pipeline.engines.layers.predict import count_shapes, known_gpus, predict_texts_ms
from pipeline.engines.layers.records import read_layers
from pipeline.errors import QuantizeError
from pipeline.flow.choice import auto
from pipeline.stages import quantize

pytestmark = pytest.mark.skipif(find_gpu() is not None, reason="chooses for this machine's CPU")


@dataclass(frozen=True)
class Ended:
    """How the command ended: its exit code, its output, and where it published."""

    code: int
    out: str
    err: str
    tiny: Path

    def bundles(self) -> list[str]:
        return sorted(path.name for path in self.tiny.glob("[!.]*"))

    def report(self, name: str) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.tiny / name / "report.json").read_text("utf-8"))
        return data


Run = Callable[..., Ended]
NAMED = ["model=minilm"]
TWO = "precision.candidates=[fp32,fp16]"


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """Return a function that runs the command on the tiny model, in this process."""

    def of(*arguments: str, model: Sequence[str] = ()) -> Ended:
        given = [*(model or command_line.settings(tiny_dir)), "precision=auto", *arguments]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # restored afterwards: the command sets it
        monkeypatch.setattr(sys, "argv", ["pipeline", *given])
        code = main()
        said = capsys.readouterr()
        return Ended(code=code, out=said.out, err=said.err, tiny=tmp_path / "artifacts" / "tiny")

    handlers = logging.getLogger().handlers[:]
    yield of
    logging.getLogger().handlers[:] = handlers


def by_precision(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["precision"]: row for row in report["auto"]["tried"]}


@pytest.mark.slow
def test_the_fastest_here_is_published_as_if_it_had_been_named(run: Run) -> None:
    ended = run(
        "engine=onnxruntime", "precision.candidates=[fp32,fp8,int8]", *command_line.ANY_INT8
    )
    assert ended.code == 0, ended.err
    (chosen,) = ended.bundles()
    report = ended.report(chosen)
    assert report["precision"] == report["auto"]["chosen"] == chosen
    manifest = json.loads((ended.tiny / chosen / "manifest.json").read_text("utf-8"))
    assert manifest["config"]["precision"]["name"] == chosen
    assert manifest["config"]["precision"]["calibration_sentences"] == 40
    assert manifest["config"]["precision"]["candidates"] == []

    rows = by_precision(report)
    assert list(rows) == ["fp32", "fp8", "int8"]
    assert rows["fp8"]["outcome"] == "not built"
    assert rows["fp8"]["why"] == "no CPU computes in fp8"
    speeds = {name: rows[name]["speed"]["speedup"] for name in ("fp32", "int8")}
    assert all(rows[name]["speed"]["measured"] for name in speeds)
    other = "int8" if chosen == "fp32" else "fp32"
    assert speeds[chosen]["ci95"][1] >= speeds[other]["ci95"][0]
    assert rows[chosen]["outcome"] == "chosen"
    assert rows[other]["outcome"] == "passed"
    (measured,) = report["artifacts"]
    assert measured["throughput"]["speedup"] == speeds[chosen]
    assert measured["agreement"]["cosine"]["mean"] == rows[chosen]["cosine_mean"]

    for page in (ended.out, (ended.tiny / chosen / "report.html").read_text("utf-8")):
        assert "no CPU computes in fp8" in page
        assert f"{speeds[other]['median']:.2f}×" in page
    assert f"{chosen} is the choice for this machine" in ended.out.replace("\n  ", " ")
    exports = [stage["cached"] for stage in report["stages"] if stage["name"] == "export"]
    assert exports == [chosen != "fp32"]  # the second candidate takes the first one's


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_a_gpu_that_is_not_here_is_chosen_for_by_prediction(run: Run) -> None:
    ended = run(
        "target=l4",
        "engine=tensorrt_rtx",
        "engine.sequence_buckets=[48]",
        "precision.candidates=[bf16,fp16]",
    )
    assert ended.code == 0, ended.err
    assert ended.bundles() == ["fp16"]  # bf16 has the same kernels, and is further from fp32
    report = ended.report("fp16")
    assert (report["auto"]["target"], report["auto"]["measured"]) == ("L4", False)
    rows = by_precision(report)
    times = {name: row["speed"]["predicted_ms_a_thousand_texts"] for name, row in rows.items()}
    assert times["fp16"] == pytest.approx(times["bf16"], rel=0.01)
    assert not any(row["speed"]["measured"] for row in rows.values())
    assert rows["bf16"]["why"].startswith("not shown to be faster than fp16 (1.00 of its speed)")
    assert "fp16 is the choice for L4 among 2, by prediction" in ended.out.replace("\n  ", " ")

    (plan,) = (ended.tiny / "fp16" / "engines").iterdir()
    assert times["fp16"] == pytest.approx(predicted_again(ended.tiny / "fp16", plan), rel=1e-6)


def predicted_again(bundle: Path, plan: Path) -> float:
    """Predict from what was published: the plan's kernels, the bundle's tokenizer, the sample."""
    from pipeline.config import DatasetConfig, DatasetFormat
    from pipeline.contracts import Profile
    from pipeline.text.datasets import load_dataset, spread
    from pipeline.text.tokens import Tokenizer

    texts = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample)).evaluation
    rows = Tokenizer(bundle, max_length=48).rows(spread(texts, 40))
    profile = Profile(min=(1, 1), opt=(16, 48), max=(64, 48))
    (layers,) = plan.glob("*layers.json")
    time = predict_texts_ms(
        read_layers(layers), (profile,), known_gpus()["l4"], count_shapes(rows, 32)
    )
    assert time is not None
    return time


@pytest.mark.slow
def test_where_none_passes_the_table_says_what_each_missed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fails a gate, one is refused by its own stage, which ends no other."""

    def refuse(*_: Any) -> None:
        raise QuantizeError("tiny: NaN in an activation")

    monkeypatch.setattr(quantize, "quantize", refuse)
    ended = run(
        "engine=onnxruntime",
        "precision.candidates=[int8,fp32]",
        "validate.gates.cosine_mean.fp32=2",
    )
    assert ended.code == 2, ended.err
    assert ended.bundles() == ["fp32.rejected"]
    assert "  int8          not built: mean cosine not measured, speed not measured" in ended.out
    assert "  fp32          failed: mean cosine 1.00000, speed " in ended.out
    report = ended.report("fp32.rejected")
    assert report["auto"]["chosen"] is None
    rows = by_precision(report)
    assert (rows["int8"]["outcome"], rows["fp32"]["outcome"]) == ("not built", "failed")
    assert rows["int8"]["why"] == "tiny: NaN in an activation"
    (gate,) = rows["fp32"]["failed_gates"]
    assert gate.startswith("onnxruntime: cosine.mean 1.0")
    assert rows["fp32"]["why"] == f"failed {gate}"


@pytest.mark.slow
def test_where_each_ends_in_an_error_it_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise QuantizeError("no MatMul")

    monkeypatch.setattr(auto, "make_candidate", refuse)
    ended = run(TWO, model=NAMED)
    assert ended.code == 1
    assert ended.err.endswith(
        "error: precision=auto for this machine's CPU: nothing to choose from: fp32: no MatMul; "
        "fp16: no MatMul\n"
    )


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    works = []

    def interrupted(_: Any, __: Any, work: Path) -> None:
        works.append(work)
        assert work.is_dir()
        if len(works) == 2:
            raise KeyboardInterrupt
        raise QuantizeError("no MatMul")

    monkeypatch.setattr(auto, "make_candidate", interrupted)
    ended = run(TWO, model=NAMED)
    assert ended.code == 130
    assert ended.err.endswith("interrupted: nothing unfinished was published\n")
    assert not any(work.exists() for work in works)
    assert ended.bundles() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["target=l5", TWO], "target=l5: no such target; choose one of cpu, t4, a10, l4, rtx4090"),
        (
            ["target=l4", "engine=onnxruntime", TWO],
            "engine=onnxruntime builds no engine; set engine=",
        ),
        (["target=l4", "precision=fp16"], "target=l4 is what precision=auto chooses for: leave"),
        (["precision.candidates=[fp32,int3]"], "precision.candidates: precision=int3: no such"),
        (["precision.candidates=[auto]"], "precision.candidates: auto is a choice among others"),
        (["precision.name=mine", TWO], "two are named alike (mine, mine); name each once"),
        (["precision.candidates=[fp8]"], "this machine's CPU: nothing to choose from: fp8: no CPU"),
        (
            ["validate=off", TWO],
            "precision=auto chooses by gates and speed: leave validate=off out",
        ),
        (["validate.batch_size=0", TWO], "validate.batch_size=0: expected at least 1"),
        (["validate.device=cuda", "target=cpu", TWO], "leave validate.device=cuda out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_chosen_is_one_line(run: Run, arguments: list[str], words: str) -> None:
    ended = run(*arguments, model=NAMED)
    assert ended.code == 1
    assert ended.out == ""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert words in line
    assert "internal error" not in line
