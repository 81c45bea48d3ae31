"""The table of benchmarks.scale: in a page, between its marks, and nothing else of the page."""

from pathlib import Path

import pytest

from benchmarks.scale import BEGIN, END, Run, Stage, draw, write_table

RUN = Run(
    shape="bert-mini",
    weights=11_000_000,
    seconds=61.4,
    cpu_seconds=99.6,
    fp32_mib=42.0,
    model_onnx_mib=10.5,
    stages=(
        Stage(name="export", seconds=20.4, peak_mib=1024.0),
        Stage(name="quantize", seconds=30.6, peak_mib=2048.0),
    ),
)


def test_the_page_holds_what_was_measured_and_keeps_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", "utf-8")
    write_table([RUN], page)
    write_table([RUN], page)
    text = page.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    head, rule, row = (line for line in text.splitlines() if line.startswith("|"))
    assert head.count("|") == rule.count("|") == row.count("|")
    assert row.split(" | ")[1:5] == ["11", "20 / 1.0", "31 / 2.0", "61"]
    assert row.endswith("| 100 | 2.0 | 48.8 | 25% |")


@pytest.mark.parametrize("text", ["none", f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_a_page_without_the_marks_stays_as_it_is(text: str, tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text(text, "utf-8")
    with pytest.raises(ValueError, match="once each"):
        write_table([RUN], page)
    assert page.read_text("utf-8") == text


def test_a_plot_of_one_run_is_drawn(tmp_path: Path) -> None:
    draw([RUN], tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").read_text("utf-8").count("<path") > 20
