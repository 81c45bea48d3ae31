"""trend: the matrix, the lines, the short forms."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from some_nights import kept, night, report, steady

from pipeline.errors import HistoryError
from pipeline.history.judge.absent import unpublished
from pipeline.history.keep.records import Entry, Finding, label_night
from pipeline.history.keep.status import State
from pipeline.history.show.render import render
from pipeline.history.show.summary import render_junit, render_markdown
from pipeline.history.show.trend import make_trend
from pipeline.history.show.trend_page import render_html

MACHINE = Finding(
    cell="minilm-int8-cpu",
    artifact="onnxruntime",
    metric="speedup",
    kind="machine",
    text="an older bundle is no faster <now>",
    fails=False,
    rule="step",
)


def nights(count: int, precision: str = "int8", drop_at: int | None = None) -> list[Entry]:
    """Return a cell's nights; a tenth slower from one on."""
    return [
        kept(
            n,
            report({"onnxruntime": s * (0.9 if drop_at is not None and n >= drop_at else 1)}),
            precision=precision,
        )
        for n, s in enumerate(steady(range(count)))
    ]


@pytest.fixture
def entries() -> list[Entry]:
    """A cell that stepped down, one that was rejected, one that ended earlier; some findings."""
    stepped = nights(30, drop_at=20)
    stepped[-1] = replace(stepped[-1], findings=(MACHINE,))
    rejected = nights(29, "fp16")
    gates = ["onnxruntime: cosine.mean 0.9 < 0.99"]
    failed = kept(
        29,
        report({"onnxruntime": 1.0}, failed_gates=gates),
        precision="fp16",
        state=State.rejected,
        message="a gate failed",
    )
    gate = Finding(
        cell=failed.cell,
        metric="gates",
        kind="regression",
        text=f"gate failed: {gates[0]}",
        fails=True,
        rule="gate",
    )
    rejected.append(replace(failed, findings=(gate,)))
    return sorted([*stepped, *rejected, *nights(28, "fp32")], key=lambda e: (e.night, e.cell))


class Text(HTMLParser):
    """The page's words without its markup, and the tags that were left open."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words_of(html: str) -> str:
    parser = Text()
    parser.feed(html)
    return " ".join(" ".join(parser.words).split())


def test_the_matrix_has_every_cell_by_model_and_precision(entries: list[Entry]) -> None:
    trend = make_trend(entries)
    assert trend.devices == ["cpu"]
    assert trend.precisions("cpu") == ["fp32", "fp16", "int8"]
    assert [[c.state for c in cells] for cells in trend.matrix("cpu")["minilm"]] == [
        ["absent"],
        ["rejected"],
        ["published"],
    ]
    (cell,) = trend.matrix("cpu")["minilm"][2]
    assert cell.change is not None
    assert cell.change.direction == "same"
    ago = make_trend([e for e in entries if e.night <= night(20)])
    (cell,) = ago.matrix("cpu")["minilm"][2]
    assert cell.change is not None
    assert cell.change.direction == "slower"
    assert cell.change.share == pytest.approx(-0.1, abs=0.02)


@pytest.mark.slow
def test_the_page_says_what_it_shows_in_words(entries: list[Entry], tmp_path: Path) -> None:
    html = render_html(make_trend(entries), tmp_path, database=tmp_path / "h.sqlite")
    words = words_of(html)
    assert "Night of 2026-09-21 · 1 of 2 cells published" in words
    assert "✕ rejected in validate" in words
    assert "not in this night last on 2026-09-19" in words
    assert "▼ 10.0 % on 2026-09-12" in words
    assert "gate failed: onnxruntime: cosine.mean 0.9 < 0.99" in words
    assert "an older bundle is no faster <now>" in words
    assert "1 that do not fail the night: 1 machine" in words
    assert "python -m pipeline model=minilm precision=fp16" in words
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', html)


@pytest.mark.slow
def test_ids_are_unique_and_links_lead_to_them(entries: list[Entry], tmp_path: Path) -> None:
    html = render_html(make_trend(entries), tmp_path, database=tmp_path / "h.sqlite")
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', html)) <= set(ids)


def test_a_single_night_is_a_page(tmp_path: Path) -> None:
    render(nights(1), tmp_path, database=tmp_path / "h.sqlite")
    page = (tmp_path / "trend.html").read_text("utf-8")
    assert "1 of 1 cells published" in words_of(page)
    assert "✓ Nothing: no gate failed" in words_of(page)


def test_a_night_without_any_figure_is_a_page(tmp_path: Path) -> None:
    render([kept(0, None, state=State.missing)], tmp_path, database=tmp_path / "h.sqlite")
    assert "? missing" in (tmp_path / "trend.html").read_text("utf-8")


def test_a_night_with_fewer_cells_is_not_a_night_that_lost_some(tmp_path: Path) -> None:
    fewer = [*nights(3, "fp16")[:2], *nights(3, "fp32")[:2], *nights(3)]
    trend = make_trend(sorted(fewer, key=lambda e: (e.night, e.cell)))
    html = render_html(trend, tmp_path, database=tmp_path / "h.sqlite")
    assert "1 of 1 cells published" in words_of(html)
    assert "1 published, 2 not in this night. Nothing fails the night" in words_of(html)
    assert '<header class="verdict ">' in html
    assert 'class="bad"' not in html
    suites = ET.fromstring(render_junit(trend))
    assert {case.get("classname") for case in suites[0]} == {"minilm-int8-cpu"}
    assert suites.get("failures") == "0"


@pytest.mark.many
@pytest.mark.parametrize("state", [State.crashed, State.timeout, State.error, State.stopped])
def test_a_cell_s_ending_is_called_by_its_name_and_told_once(state: State, tmp_path: Path) -> None:
    ended = kept(1, None, state=state, stage="build", message="what it said")
    ended = replace(ended, findings=tuple(unpublished(ended)))
    trend = make_trend([*nights(1), ended])
    html = render_html(trend, tmp_path, database=tmp_path / "h.sqlite")
    section = words_of(html[html.index('<section class="cell"') :])
    assert section.count("what it said") == 1
    assert f"{state} in build: what it said" in section
    assert "missing" not in words_of(html) + render_markdown(trend)
    assert render_markdown(trend).count("what it said") == 1
    cases = list(ET.fromstring(render_junit(trend))[0])
    assert [case.get("name") for case in cases] == ["state"]


def test_nights_of_one_day_have_labels_of_their_own(tmp_path: Path) -> None:
    first, second, third = (replace(e, night=night) for e, night in zip(
        nights(3), ("2026-11-20T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-21T14:30:00Z"),
        strict=True,
    ))  # fmt: skip
    trend = make_trend([first, second, third])
    html = render_html(trend, tmp_path, database=tmp_path / "h.sqlite")
    words = words_of(html)
    assert "Night of 2026-11-21 14:30" in words
    for label in ("2026-11-20 ", "2026-11-21 02:00 ", "2026-11-21 14:30 "):
        assert words.count(f"{label}✓ published") == 1
    assert ">11-20</text>" in html
    assert ">14:30</text>" in html
    assert render_markdown(trend).startswith("## Night of 2026-11-21 14:30: ")
    assert label_night("2026-11-21T02:00:07Z", ["2026-11-21T02:00:09Z"]) == "2026-11-21 02:00:07"


def test_no_night_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="no night to show"):
        render([], tmp_path, database=tmp_path / "h.sqlite")


def test_only_the_last_nights_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.history.show.trend.NIGHTS", 5)
    trend = make_trend([*nights(9, "fp16")[:3], *nights(9)])
    assert trend.nights == [night(n) for n in range(4, 9)]
    assert [cell.last.precision for cell in trend.cells] == ["int8"]
    assert len(trend.cells[0].entries) == 5


def test_the_markdown_names_what_fails(entries: list[Entry]) -> None:
    text = render_markdown(make_trend(entries))
    assert text.startswith("## Night of 2026-09-21: 1 published, 1 rejected, 1 not in this night\n")
    assert "- **regression** minilm-fp16-cpu: gate failed: onnxruntime" in text
    assert "- 1 more in trend.html" in text
    assert "| cpu | fp32 | fp16 | int8 |" in text
    assert "| minilm | not in this night, last on 2026-09-19 | REJECTED | 2.67×, 0.99950 |" in text


def test_the_junit_has_a_case_for_each_state_and_speed(entries: list[Entry]) -> None:
    suites = ET.fromstring(render_junit(make_trend(entries)))
    cases = {(c.get("classname"), c.get("name")): c for c in suites[0]}
    failed = {key for key, case in cases.items() if case.find("failure") is not None}
    assert failed == {("minilm-fp16-cpu", "gates")}
    speed = cases["minilm-int8-cpu", "onnxruntime speedup"]
    assert speed.findtext("system-out") == "an older bundle is no faster <now>"
    assert ("minilm-int8-cpu", "onnxruntime latency_speedup") in cases
    assert suites.get("failures") == "1"
