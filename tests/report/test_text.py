"""The text on the terminal: what a log has to say without the page."""

from pathlib import Path

from example_report import Data, failed, int8

from pipeline.contracts import Outcome, Report
from pipeline.report.text import render_text


def text_of(data: Data) -> str:
    failed_gates = tuple(data["failed_gates"])
    report = Report(passed=not failed_gates, failed_gates=failed_gates, data=data)
    return render_text(Outcome(published=report.passed, path=Path("out/int8"), report=report))


def test_pass_with_all_that_was_measured() -> None:
    text = text_of(int8())
    assert "recall_at_10: 87.97 (fp32 87.89, +0.08; 95 %: -0.42 to +0.58)" in text
    assert "  in its place: onnxruntime_fp32 1.21x PyTorch fp32\n" in text
    assert "  in its place: torch_compile not measured: no C++ compiler found\n" in text
    assert text.endswith("\nnext: " + int8()["next_step"] + "\npublished out/int8")
    assert max(map(len, text.splitlines())) <= 100


def test_slower_is_said() -> None:
    assert "0.72x PyTorch fp32 (95 %: 0.67 to 0.78), SLOWER, latency" in text_of(failed())
    assert "SLOWER" not in text_of(int8())


def test_percentile_that_few_texts_do_not_carry() -> None:
    data = int8()
    data["artifacts"][0]["agreement"]["cosine"]["p1"] = None
    assert "mean 0.99953, p1 not measured, lowest 0.99850" in text_of(data)
