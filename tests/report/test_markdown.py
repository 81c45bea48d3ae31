"""report.md: short, and what it is given stays text."""

from example_report import LONG, failed, int8

from pipeline.report.markdown import render_markdown


def test_pass() -> None:
    lines = render_markdown(int8()).splitlines()
    assert lines[0] == "## minilm int8: passed"
    assert lines[2].startswith("Deploy model.onnx")
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    assert "| recall@10 87.97 (+0.08) | 2.17× (2.02 to 2.34) | 1.83 ms | cpu |" in table[2]
    assert table[3].count("not measured") == 5
    assert "not executed: no CUDA device on this machine" in table[3]
    assert "Not built: tensorrt (Python package tensorrt is not installed)." in lines


def test_failure() -> None:
    text = render_markdown(failed())
    assert text.startswith("## minilm int8: failed, not published\n")
    assert "- **gate failed** onnxruntime: tasks.sample -3.790000 \\< -2.0\n" in text
    assert "0.72× (0.67 to 0.78), slower" in text


def test_markup_is_escaped_and_a_cell_stays_a_cell() -> None:
    data = int8() | {"next_step": LONG}
    data["artifacts"][1]["reason"] = "a | b\nc <script>"
    text = render_markdown(data)
    assert "<script" not in text.replace("\\<", "")
    assert "not executed: a \\| b c \\<script\\> |" in text
