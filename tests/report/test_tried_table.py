"""The table of precision=auto, on every page that a report has."""

from pathlib import Path

from example_report import Data, failed, int8, speedup

from pipeline.contracts import Outcome, Report
from pipeline.report.html import render_html
from pipeline.report.markdown import render_markdown
from pipeline.report.next_step import next_step
from pipeline.report.text import render_text


def row(precision: str, outcome: str, why: str, **more: object) -> Data:
    empty: Data = {"cosine_mean": None, "failed_gates": [], "speed": None}
    return {"precision": precision, "outcome": outcome, "why": why} | empty | more


def table(*, measured: bool) -> Data:
    speed = (
        {"measured": True, "artifact": "openvino", "speedup": speedup(3.41, 3.3, 3.52)}
        if measured
        else {
            "measured": False,
            "artifact": "tensorrt_rtx",
            "predicted_ms_a_thousand_texts": 27.21,
        }
    )
    return {
        "target": "this machine's CPU" if measured else "L4",
        "measured": measured,
        "batch": None if measured else 32,
        "chosen": "int8",
        "tried": [
            row("fp8", "not built", "a <b> & c"),
            row("fp16", "failed", "failed cosine.mean 0.5 < 0.9", cosine_mean=0.5),
            row("int8", "chosen", "the fastest", cosine_mean=0.99953, speed=speed),
        ],
    }


def text_of(data: Data) -> str:
    report = Report(passed=True, failed_gates=(), data=data)
    return render_text(Outcome(published=True, path=Path("out/int8"), report=report))


def test_what_was_measured() -> None:
    data = int8() | {"auto": table(measured=True)}
    text = text_of(data)
    assert "tried for this machine's CPU, speed measured there over PyTorch fp32's\n" in text
    assert (
        "  int8          chosen: mean cosine 0.99953, speed 3.41× (3.30 to 3.52), openvino" in text
    )
    assert "  fp8           not built: mean cosine not measured, speed not measured\n" in text
    assert next_step(data).startswith("int8 is the choice for this machine's CPU among 3. Deploy ")
    assert max(map(len, text.splitlines())) <= 100


def test_what_was_predicted_is_called_so() -> None:
    data = int8() | {"auto": table(measured=False)}
    pages = text_of(data), render_html(data), render_markdown(data)
    for page in pages:
        assert "predicted 27.2 ms, tensorrt" in page
        assert "nothing of it was measured" in " ".join(page.split())
    assert next_step(data).startswith("int8 is the choice for L4 among 3, by prediction: measure")


def test_pages_escape_what_they_are_told() -> None:
    data = int8() | {"auto": table(measured=True)}
    assert "a &lt;b&gt; &amp; c" in render_html(data)
    assert "a \\<b\\> & c |" in render_markdown(data)
    assert "<h2>Why int8?</h2>" in render_html(data)
    lines = [line for line in render_markdown(data).splitlines() if line.startswith("| fp")]
    assert [line.count("|") for line in lines] == [6, 6]


def test_a_report_where_none_passed_has_the_table_and_no_choice() -> None:
    data = failed() | {"auto": table(measured=True) | {"chosen": None}}
    assert "<h2>Why none?</h2>" in render_html(data)
    assert "is the choice" not in next_step(data)
