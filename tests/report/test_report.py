"""report: what goes into report.json, and what people read of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import NumericType
from pipeline.contracts import Engine, Graphs, NotBuilt, OnnxModel, Outcome, Report, SourceModel
from pipeline.measure.quality.agreement import Agreement, VectorChecks
from pipeline.measure.quality.breakdown import Breakdown, Group, Histogram, Text
from pipeline.measure.quality.tasks import MetricScores, TaskScores
from pipeline.measure.results import ArtifactResult, BaselineResult, Gate, Validation
from pipeline.measure.speed.cold import Cold
from pipeline.measure.speed.grid import CellTiming, GridCell
from pipeline.measure.speed.intervals import Speedup
from pipeline.measure.speed.latency import Latency
from pipeline.measure.speed.throughput import TextThroughput, Throughput
from pipeline.report.entries.report import StageTime, make_report
from pipeline.report.html import render_html
from pipeline.report.next_step import next_step
from pipeline.report.text import render_text
from pipeline.runtime.invariance import Invariance

MakeReport = Callable[..., Report]

QUANTIZATION: dict[str, Any] = {
    "gemms": 36,
    "gemms_int8": 35,
    "embedding_tables_int8": [{"name": "word_embeddings", "shape": [100, 8]}],
    "method": "static W8A8",
    "scheme": "symmetric",
    "high_precision": {"model.onnx": "fp32", "engines": "fp16"},
    "calibration": {
        "sentences": 44,
        "held_back": 8,
        "spans": 144,
        "sha256": "c" * 64,
        "tokens": 900,
        "length_tokens": {"min": 3, "max": 48},
    },
    "gemm_list": [
        {
            "name": "layer.0.query",
            "shape": [32, 96],
            "int8": True,
            "smoothing": "layer_norm",
            "alpha": 0.9,
            "activation_scale": "max",
            "channels_added": 0,
            "output_error": 1e-4,
        },
        {
            "name": "layer.0.output",
            "shape": [96, 32],
            "int8": False,
            "smoothing": "explicit",
            "alpha": 0.85,
            "activation_scale": "mse",
            "channels_added": 32,
            "output_error": 4e-4,
        },
    ],
}


COLD = Cold(load_s=0.5, first_encode_ms=3.0, peak_memory_bytes=10**8, gpu_memory_bytes=None)
COLD_DATA = {"load_s": 0.5, "first_encode_ms": 3.0, "peak_memory_bytes": 10**8}


def gate(threshold: float, observed: float) -> Gate:
    return Gate(
        name="cosine.mean", threshold=threshold, observed=observed, setting="validate.gates.key"
    )


@pytest.fixture
def result(tmp_path: Path) -> ArtifactResult:
    """A measured ``model.onnx`` of three bytes that passed its gate."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    return ArtifactResult(
        name="onnxruntime",
        path=path,
        device="cpu",
        agreement=Agreement(
            n=40,
            mean=0.9987,
            p1=0.991,
            min=0.985,
            mean_ci95=(0.998, 0.999),
            p1_ci95=None,
            neighbor_overlap={1: 0.975, 10: 0.93, 100: None},
            checks=VectorChecks(nan=0, zero=1, norm=(0.5, 1.5), reference_norm=(0.75, 1.25)),
        ),
        breakdown=Breakdown(
            histogram=Histogram(edges=(1e-4, 1e-3, 1e-2), counts=(30, 10)),
            by_length=(((1, 16), Group(n=40, mean=0.9987, p1=None, min=0.985)),),
            by_kind=(("chat", Group(n=12, mean=0.998, p1=0.9875, min=0.985)),),
            worst=((Text(text="so long", tokens=4, kind="chat"), 0.985),),
        ),
        invariance=Invariance(n=32, batch=0.99, padding=0.995, move=0.04),
        tasks={
            "sample": TaskScores(
                metric="recall_at_10",
                n=38,
                metrics={
                    "recall_at_10": MetricScores(
                        reference=80.5, artifact=80.0, delta_ci95=(-1.5, 0.25)
                    ),
                    "mrr_at_10": MetricScores(
                        reference=70.0, artifact=71.0, delta_ci95=(-0.5, 2.5)
                    ),
                },
            )
        },
        throughput=Throughput(
            sentences_per_second=300.0,
            reference_sentences_per_second=100.0,
            tokens_per_second=9000.0,
            speedup=Speedup(median=3.0, ci95=(2.5, 3.5)),
            rounds=7,
            texts=64,
            mean_tokens=30.5,
        ),
        with_tokenization=TextThroughput(
            sentences_per_second=200.0,
            reference_sentences_per_second=90.0,
            speedup=Speedup(median=2.2, ci95=(0.9, 2.5)),
            rounds=6,
        ),
        grid=(
            GridCell(
                batch=8,
                sequence=16,
                timing=CellTiming(
                    ms=2.0,
                    reference_ms=1.0,
                    tokens_per_second=64000.0,
                    speedup=Speedup(median=0.5, ci95=(0.4, 0.6)),
                    rounds=12,
                ),
            ),
            GridCell(batch=8, sequence=48, skipped="time budget"),
        ),
        cold=COLD,
        latency=Latency(n=200, p50=1.25, p95=2.5, p99=4.0),
        gemms={"integer": 36, "float": 12},
        gates=(gate(0.99, 0.9987),),
    )


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A plan of five bytes."""
    path = tmp_path / "tensorrt_rtx-ampere_plus.plan"
    path.write_bytes(b"plan!")
    return Engine(
        path=path,
        sha256="e" * 64,
        runtime="tensorrt_rtx",
        runtime_version="1.7.0",
        target="ampere_plus",
        profiles=(),
        inputs=(),
        outputs=(),
        layer_types={"float": 200, "int8": 20},
        source_sha256="b" * 64,
    )


@pytest.fixture
def report(tmp_path: Path, engine: Engine) -> MakeReport:
    """Return a function that makes a report of results, with one plan that was built."""
    source = SourceModel(
        name="tiny",
        path=tmp_path,
        assets=tmp_path,
        origin="directory",
        location="models/<b>tiny</b> & co",
        revision=None,
        candidates=("directory: used",),
        weights={"model.safetensors": "a" * 64},
        sha256="a" * 64,
        max_length=48,
        dimension=32,
        modules=("Transformer", "Pooling", "Normalize"),
        pooling="mean",
        prompts={},
        default_prompt=None,
        trust_remote_code=False,
    )
    graph = OnnxModel(
        path=tmp_path / "model.onnx",
        sha256="b" * 64,
        precision=NumericType.int8,
        inputs=(),
        outputs=(),
        source_sha256="a" * 64,
    )

    def make(*results: ArtifactResult, quantized: bool = True) -> Report:
        made = make_report(
            source=source,
            precision="int8",
            graphs=Graphs(
                portable=graph,
                buildable=graph,
                quantization=QUANTIZATION if quantized else None,
            ),
            engines=[engine],
            not_built=[NotBuilt(runtime="tensorrt", reason="Python package is not installed")],
            validation=Validation(
                reference_device="cpu",
                reference_threads=2,
                dataset="sample",
                dataset_sha256="d" * 64,
                reference_latency=Latency(n=40, p50=5.5, p95=None, p99=None),
                reference_cold=None,
                baselines=(
                    BaselineResult(
                        name="onnxruntime_fp32",
                        device="cpu",
                        sentences_per_second=250.0,
                        speedup=Speedup(median=1.5, ci95=(1.4, 1.6)),
                    ),
                    BaselineResult(name="torch_fp16", reason="no CUDA device"),
                ),
                artifacts=results,
            ),
            stages=[StageTime(name="export", seconds=3.5), StageTime(name="build", seconds=0.0)],
            environment={
                "cpu": "A CPU",
                "cpu_count": 2,
                "gpu": None,
                "python": "3.11",
                "packages": {"torch": "2.9"},
            },
        )
        data = {**made.data, "published": [], "engines_beside": []}
        return replace(made, data=data | {"next_step": next_step(data)})

    return make


def test_measured_artifact(report: MakeReport, result: ArtifactResult) -> None:
    made = report(result)
    assert made.passed
    assert made.failed_gates == ()
    data = made.data
    assert (data["schema"], data["model"], data["precision"]) == (1, "tiny", "int8")
    assert data["status"] == "passed"
    assert data["dataset"] == "sample"
    assert data["reference"] == {
        "framework": "torch",
        "dtype": "float32",
        "device": "cpu",
        "threads": 2,
        "tf32": False,
        "latency_ms": {"batch": 1, "p50": 5.5, "p95": None, "p99": None, "n": 40},
        "cold": None,
    }
    assert data["dataset_sha256"] == "d" * 64
    assert data["baselines"] == [
        {
            "name": "onnxruntime_fp32",
            "executed": True,
            "device": "cpu",
            "sentences_per_second": 250.0,
            "speedup": {"median": 1.5, "ci95": [1.4, 1.6], "verdict": "faster"},
        },
        {"name": "torch_fp16", "executed": False, "reason": "no CUDA device"},
    ]
    assert data["quantization"] == QUANTIZATION
    assert data["not_built"] == [{"name": "tensorrt", "reason": "Python package is not installed"}]
    assert data["stages"][0] == {"name": "export", "seconds": 3.5, "cached": False}
    assert data["artifacts"] == [
        {
            "name": "onnxruntime",
            "file": "model.onnx",
            "bytes": 3,
            "executed": True,
            "gemm_kernels": {"integer": 36, "float": 12},
            "device": "cpu",
            "agreement": {
                "n": 40,
                "cosine": {
                    "mean": 0.9987,
                    "p1": 0.991,
                    "min": 0.985,
                    "ci95": {"mean": [0.998, 0.999], "p1": None},
                },
                "neighbor_overlap_at_10": 0.93,
                "neighbor_overlap": {"1": 0.975, "10": 0.93, "100": None},
                "histogram": {"edges": [1e-4, 1e-3, 1e-2], "counts": [30, 10]},
                "by_length": [
                    {"tokens": [1, 16], "n": 40, "mean": 0.9987, "p1": None, "min": 0.985}
                ],
                "by_kind": [{"kind": "chat", "n": 12, "mean": 0.998, "p1": 0.9875, "min": 0.985}],
                "worst": [{"text": "so long", "tokens": 4, "kind": "chat", "cosine": 0.985}],
                "checks": {
                    "nan": 0,
                    "zero": 1,
                    "norm": {"min": 0.5, "max": 1.5},
                    "reference_norm": {"min": 0.75, "max": 1.25},
                },
                "invariance": {"n": 32, "batch": 0.99, "padding": 0.995, "move": 0.04},
            },
            "tasks": {
                "sample": {
                    "metric": "recall_at_10",
                    "reference": 80.5,
                    "artifact": 80.0,
                    "delta": -0.5,
                    "ci95": [-1.5, 0.25],
                    "n": 38,
                    "metrics": {
                        "recall_at_10": {
                            "reference": 80.5,
                            "artifact": 80.0,
                            "delta": -0.5,
                            "ci95": [-1.5, 0.25],
                        },
                        "mrr_at_10": {
                            "reference": 70.0,
                            "artifact": 71.0,
                            "delta": 1.0,
                            "ci95": [-0.5, 2.5],
                        },
                    },
                }
            },
            "throughput": {
                "sentences_per_second": 300.0,
                "reference_sentences_per_second": 100.0,
                "reference_device": "cpu",
                "tokens_per_second": 9000.0,
                "speedup": {"median": 3.0, "ci95": [2.5, 3.5], "verdict": "faster"},
                "rounds": 7,
                "texts": 64,
                "mean_tokens": 30.5,
                "with_tokenization": {
                    "sentences_per_second": 200.0,
                    "reference_sentences_per_second": 90.0,
                    "speedup": {"median": 2.2, "ci95": [0.9, 2.5], "verdict": "no difference"},
                    "rounds": 6,
                },
                "grid": [
                    {
                        "batch": 8,
                        "sequence": 16,
                        "ms": 2.0,
                        "reference_ms": 1.0,
                        "tokens_per_second": 64000.0,
                        "speedup": {"median": 0.5, "ci95": [0.4, 0.6], "verdict": "slower"},
                        "rounds": 12,
                    },
                    {"batch": 8, "sequence": 48, "skipped": "time budget"},
                ],
            },
            "cold": COLD_DATA,
            "latency_ms": {"batch": 1, "p50": 1.25, "p95": 2.5, "p99": 4.0, "n": 200},
            "gates": [
                {
                    "name": "cosine.mean",
                    "threshold": 0.99,
                    "observed": 0.9987,
                    "passed": True,
                    "relative_to": None,
                    "setting": "validate.gates.key",
                    "detail": None,
                }
            ],
        }
    ]


def test_not_executed_says_why_and_has_no_number(report: MakeReport, engine: Engine) -> None:
    skipped = ArtifactResult(name="tensorrt_rtx", path=engine.path, reason="no CUDA device here")
    made = report(skipped)
    assert made.data["artifacts"] == [
        {
            "name": "tensorrt_rtx",
            "file": "engines/tensorrt_rtx-1.7.0-ampere_plus/model.plan",
            "bytes": 5,
            "executed": False,
            "runtime_version": "1.7.0",
            "target": "ampere_plus",
            "layer_types": {"float": 200, "int8": 20},
            "reason": "no CUDA device here",
        }
    ]
    assert "no CUDA device here" in render_html(made.data)


@pytest.mark.parametrize("observed", [0.98, float("nan")])
def test_failed_gate_fails_the_report(
    report: MakeReport, result: ArtifactResult, observed: float
) -> None:
    made = report(result, replace(result, name="other", gates=(gate(0.99, observed),)))
    assert not made.passed
    assert made.data["status"] == "failed"
    assert [g["passed"] for a in made.data["artifacts"] for g in a["gates"]] == [True, False]
    (words,) = made.failed_gates
    assert words.startswith("other: cosine.mean ")
    assert "0.99" in words
    assert made.data["failed_gates"] == [words]


def test_gate_passes_at_its_threshold() -> None:
    assert gate(0.99, 0.99).passed


@pytest.mark.slow
def test_no_quantization_section_without_quantization(
    report: MakeReport, result: ArtifactResult
) -> None:
    made = report(result, quantized=False)
    assert "quantization" not in made.data
    assert "Quantization" not in render_html(made.data)


def test_json_round_trip(report: MakeReport, result: ArtifactResult, engine: Engine) -> None:
    skipped = ArtifactResult(name="tensorrt_rtx", path=engine.path, reason="none")
    data = report(result, skipped).data
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@pytest.mark.slow
def test_html_escapes(report: MakeReport, result: ArtifactResult) -> None:
    page = render_html(report(result).data)
    assert "models/&lt;b&gt;tiny&lt;/b&gt; &amp; co" in page
    assert "<b>tiny" not in page


@pytest.mark.slow
def test_html_of_a_pass(report: MakeReport, result: ArtifactResult) -> None:
    page = render_html(report(result).data)
    assert "Gate failed" not in page
    for shown in (
        "0.99870",
        "0.99100",
        "3.00×",
        "2.50 to 3.50",
        "93.0 %",
        "80.00",
        "−0.50",
        "1.25",
    ):
        assert shown in page
    assert "35 of 36" in page
    assert "tensorrt" in page
    assert "Python package is not installed" in page


def test_html_lists_every_gemm_with_its_error(report: MakeReport, result: ArtifactResult) -> None:
    html = render_html(report(result).data)
    assert "36 integer, 12 float" in html
    assert "<code>layer.0.</code>" in html
    for text in (">query<", ">output<", "32 × 96", "1.0e-04", "width:25.0%"):
        assert text in html
    assert '<td class="warn">fp16</td>' in html


def test_html_with_a_target_shows_what_each_gemm_costs_the_embeddings(
    report: MakeReport, result: ArtifactResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = [row | {"cosine_loss": 7e-5, "reason": "why"} for row in QUANTIZATION["gemm_list"]]
    monkeypatch.setitem(QUANTIZATION, "gemm_list", costs)
    target = {"cosine_mean": 0.9995, "held_back_cosine_mean": 0.99962}
    monkeypatch.setitem(QUANTIZATION, "target", target)
    html = render_html(report(result).data)
    assert "7.0e-05" in html
    assert "0.99962 with 1 GEMMs left in high precision" in html


@pytest.mark.slow
def test_html_of_a_failure(report: MakeReport, result: ArtifactResult) -> None:
    page = render_html(report(replace(result, gates=(gate(0.999, 0.98),))).data)
    assert "Gate failed: onnxruntime: cosine.mean 0.980000 &lt; 0.999" in page
    assert "passed its gates" not in page


@pytest.mark.slow
def test_too_few_sentences_for_neighbours(report: MakeReport, result: ArtifactResult) -> None:
    assert result.agreement is not None
    few = {1: 1.0, 10: None, 100: None}
    made = report(replace(result, agreement=replace(result.agreement, neighbor_overlap=few)))
    assert made.data["artifacts"][0]["agreement"]["neighbor_overlap_at_10"] is None
    assert "neighbours kept" not in render_html(made.data)
    assert "neighbours" not in text_of(made)


def text_of(made: Report, *, published: bool = True) -> str:
    return render_text(Outcome(published=published, path=Path("out/tiny/int8"), report=made))


def test_text_of_a_pass(report: MakeReport, result: ArtifactResult, engine: Engine) -> None:
    skipped = ArtifactResult(name="tensorrt_rtx", path=engine.path, reason="no CUDA device here")
    text = text_of(report(result, skipped))
    lines = text.splitlines()
    assert lines[0] == "tiny int8: passed"
    assert lines[-1] == "published out/tiny/int8"
    assert any("tensorrt_rtx" in line and "no CUDA device here" in line for line in lines)
    assert any("tensorrt " in line and "not installed" in line for line in lines)
    for shown in ("0.99870", "3.00x", "2.50", "3.50", "80.00", "1.25 ms"):
        assert shown in text
    assert max(map(len, lines)) <= 100


def test_text_of_a_failure(report: MakeReport, result: ArtifactResult) -> None:
    text = text_of(report(replace(result, gates=(gate(0.999, 0.98),))), published=False)
    assert "gate failed: onnxruntime: cosine.mean 0.980000 < 0.999" in text
    assert text.splitlines()[-1] == "not published; report in out/tiny/int8"


def test_gpu_memory_and_clocks_only_where_there_is_a_gpu(
    report: MakeReport, result: ArtifactResult
) -> None:
    made = report(replace(result, cold=replace(COLD, gpu_memory_bytes=5)))
    assert made.data["artifacts"][0]["cold"] == COLD_DATA | {"gpu_memory_bytes": 5}
    assert "gpu_clocks" not in made.data["environment"]


@pytest.mark.slow
def test_percentiles_without_enough_runs(report: MakeReport, result: ArtifactResult) -> None:
    made = report(replace(result, latency=Latency(n=50, p50=1.25, p95=None, p99=None)))
    page = render_html(made.data)
    assert page.count("too few runs") == 4  # p95 and p99, of the reference too
    assert "1.25" in page
    assert "latency p50 1.25 ms" in text_of(made)
