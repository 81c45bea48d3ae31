"""What plans run, as tables and lines."""

import pytest
from example_report import engine, int8

from pipeline.report.engine_text import engine_line, render_engines
from pipeline.report.html import render_html
from pipeline.report.markdown import render_markdown


def test_plans_side_by_side_line_up() -> None:
    lines = render_engines({"fp16 a": engine("fp16"), "int8 b": engine()}).splitlines()
    assert lines[0].split() == ["fp16", "a", "int8", "b"]
    table = {line[: lines[0].index("fp16") - 2].strip(): line.split()[-1] for line in lines[1:]}
    assert table["kernels"] == "77"
    assert table["bytes a token, 32 × 128"] == "173,587"
    assert [line.split()[-2:] for line in lines if line.startswith("GEMMs  ")] == [["0", "fp16"]]
    places = [i for i, line in enumerate(lines) if line.startswith("predicted, ")]
    assert places == list(range(places[0], len(lines)))
    ends = {len(line) for line in lines if "ms" in line}
    assert len(ends) == 1


def test_one_line_of_a_plan() -> None:
    assert engine_line(engine()) == (
        "77 kernels, attention fused in 6 of 6 blocks, GEMMs: 36 int8, 0 fp16 (0 with epilogue), "
        "173,587 bytes a token at 32 × 128"
    )


@pytest.mark.slow
def test_pages_call_predictions_predicted() -> None:
    data = int8()
    data["artifacts"][1]["engine"] = engine()
    beside = {"precision": "fp16", "artifact": "tensorrt_rtx", "engine": engine("fp16")}
    page = render_html(data | {"engines_beside": [beside]})
    assert "What the engines run" in page
    assert page.count("predicted, L4, 32 × 128") == 1
    assert "predicted</b> from data sheet peaks" in page
    assert "173,587" in page
    assert "What the engines run" not in render_html(int8())
    assert "77 kernels, attention fused" in render_markdown(data)
