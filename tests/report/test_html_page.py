"""report.html: what a reader finds on it, whatever the report carries."""

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from example_report import (
    LONG,
    VARIANTS,
    Data,
    executed,
    failed,
    fp32,
    gpu,
    int8,
    plan,
    speedup,
)

from pipeline.report.html import render_html

VOID = {"meta", "link", "br", "path", "use", "rect", "line", "circle", "img", "input", "hr"}


class Page(HTMLParser):
    """The page's visible text, its ids, its attributes, and the tags left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def text_of(data: Data) -> str:
    return Page(render_html(data)).text


@pytest.mark.slow
@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_is_a_whole_page(make: Callable[[], Data]) -> None:
    page = Page(render_html(make()))
    assert page.open == []
    assert not re.findall(r"\b(?:None|nan|inf|Undefined)\b", page.text)
    assert [name for name, n in Counter(page.values("id")).items() if n > 1] == []


@pytest.mark.many
@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
def test_nothing_is_fetched(make: Callable[[], Data]) -> None:
    html = render_html(make())
    page = Page(html)
    assert page.values("src") + page.values("href") + page.values("xlink:href") == []
    assert "url(" not in html
    assert "@import" not in html
    assert {"script", "link", "iframe"}.isdisjoint(re.findall(r"<(\w+)", html))


@pytest.mark.slow
@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS)
def test_same_report_same_bytes(make: Callable[[], Data]) -> None:
    assert render_html(make()) == render_html(make())


@pytest.mark.slow
def test_every_figure_is_named_for_who_cannot_see_it() -> None:
    page = Page(render_html(gpu()))
    labels = [i for value in page.values("aria-labelledby") for i in value.split()]
    assert len(labels) == 2 * len(page.values("viewbox")) > 0
    assert set(labels) <= set(page.values("id"))


@pytest.mark.slow
def test_figures_take_the_colours_of_the_page() -> None:
    html = render_html(int8())
    assert "#0a0b" not in html
    assert "stroke: var(--this)" in html
    assert "fill: currentColor" in html


@pytest.mark.slow
def test_text_of_users_is_escaped() -> None:
    data = int8()
    for place in (data["source"], data["artifacts"][1], data["published"][2]):
        place |= {"location": LONG, "reason": LONG}
    data |= {"next_step": LONG, "failed_gates": [LONG], "model": "<b>mine</b>"}
    data["artifacts"][0]["agreement"]["by_kind"][0]["kind"] = "<i>kind</i>"
    data["artifacts"][0]["tasks"] = {"<u>mine</u>": data["artifacts"][0]["tasks"]["sample"]}
    data["baselines"][1] |= {"reason": "<i>why</i>", "name": "<u>it</u>"}
    html = render_html(data)
    assert "<script" not in html
    for tag in ("<b>mine", "<i>kind", "<i>why", "<u>"):
        assert tag not in html
    assert "alert('x')" in Page(html).text


@pytest.mark.slow
def test_opens_with_the_verdict_and_what_to_do() -> None:
    text = text_of(int8())
    first = text.index("Deploy model.onnx; run this command again on the GPU that will serve.")
    assert text.index("minilm · int8 · passed") < first < text.index("Is it worth the speed?")
    assert "Not measured: tensorrt_rtx (no CUDA device on this machine)." in text


@pytest.mark.slow
def test_worth_of_the_speed_is_one_sentence() -> None:
    assert (
        "recall@10 87.97 against 87.89 of fp32 (no loss that shows: +0.08; 95 %: −0.42 to +0.58), "
        "at 2.17× the speed of PyTorch fp32." in text_of(int8())
    )


@pytest.mark.slow
def test_failure_names_gates_settings_and_losses() -> None:
    text = text_of(failed())
    assert "failed, not published" in text
    assert "Gate failed: onnxruntime: cosine.mean 0.963100 < 0.99" in text
    assert "validate.gates.cosine_mean.int8" in text
    assert "a loss: −3.79; 95 %: −5.20 to −2.40" in text
    assert "0.72× slower than fp32" in text


@pytest.mark.slow
def test_no_difference_is_not_called_faster() -> None:
    text = text_of(fp32())
    assert "1.02× no faster than fp32" in text
    assert "at 1.02× the speed of PyTorch fp32 (no difference)" in text


@pytest.mark.slow
def test_quantiles_that_the_runs_do_not_carry() -> None:
    data = int8()
    data["artifacts"][0]["latency_ms"] |= {"p99": None, "n": 200}
    assert "p99, ms 14.2 too few runs" in text_of(data)


@pytest.mark.slow
def test_unmeasured_cells_say_why_and_measured_ones_have_a_colour() -> None:
    data = int8()
    cell = {"batch": 1, "sequence": 16, "ms": 2.0, "reference_ms": 2.0, "rounds": 9}
    cells = [
        cell | {"sequence": length, "speedup": speedup(*ends)}
        for length, ends in (
            (16, (0.4, 0.3, 0.5)),
            (32, (0.9, 0.8, 0.95)),
            (64, (1.1, 0.9, 1.2)),
            (128, (1.2, 1.1, 1.3)),
            (256, (9.0, 8.0, 9.5)),
        )
    ]
    cells.append({"batch": 8, "sequence": 16, "skipped": "time budget"})
    data["artifacts"][0]["throughput"]["grid"] = cells
    html = render_html(data)
    for name, value in (
        ("slow2", "0.40×"),
        ("slow1", "0.90×"),
        ("even", "1.10×"),
        ("fast1", "1.20×"),
        ("fast4", "9.00×"),
    ):
        assert f'<td class="{name}">{value}<small>2.00 ms</small>' in html
    assert "–<small>time budget</small>" in html


@pytest.mark.slow
def test_without_judgements_the_search_has_no_column_of_them() -> None:
    """Text that is searched among itself, which is what most bundles were validated on."""
    data = int8()
    assert "nDCG@10 difference (95 %)" in text_of(data)
    artifacts = [a for a in (*data["artifacts"], data["reference"]) if "search" in a]
    for search in (artifact["search"] for artifact in artifacts):
        search["among_themselves"] = True
        for row in search["vectors"]:
            row["ndcg_at_10"] = None
    text = text_of(data)
    assert "PyTorch's recall@10" in text
    assert "nDCG@10 difference" not in text
    assert "no judgements" not in text


@pytest.mark.slow
def test_a_grid_without_a_single_cell_says_why() -> None:
    data = int8()
    cells = [{"batch": b, "sequence": 16, "skipped": "time budget"} for b in (1, 8)]
    data["artifacts"][0]["throughput"]["grid"] = cells
    assert "length: onnxruntime Not measured: time budget." in text_of(data)


@pytest.mark.slow
def test_incomparable_bundles_are_listed_with_the_reason_and_not_drawn() -> None:
    html = render_html(int8())
    assert "not in the plot: another machine" in html
    figure = html[html.index("tradeoff-task-desc") : html.index("</figure>")]
    assert ">fp16<" in figure
    assert "int8_fast" not in figure


@pytest.mark.slow
def test_three_artifacts_each_have_their_sections() -> None:
    text = text_of(gpu())
    for name in ("onnxruntime", "tensorrt", "tensorrt_rtx"):
        assert f"Speed-up by batch and length: {name} " in text
        assert f"Agreement with fp32: {name} " in text


def test_a_machine_that_ran_nothing() -> None:
    data = int8() | {"artifacts": [plan()], "baselines": [], "published": []}
    text = text_of(data)
    assert "Not measured: no artifact ran on this machine." in text
    assert "Not measured: no artifact ran." in text


@pytest.mark.slow
def test_damaged_vectors_stand_out() -> None:
    data = int8()
    data["artifacts"][0]["agreement"]["checks"] |= {"zero": 2}
    assert '<dd class="bad">0 / 2</dd>' in render_html(data)


@pytest.mark.slow
def test_worst_texts_come_with_their_cosines() -> None:
    text = text_of(int8())
    assert "0.99850 A person's own text, <script>alert('x')</script>" in text
    assert "7 tokens, chat" in text


@pytest.mark.slow
def test_one_artifact_without_tasks() -> None:
    artifact = executed() | {"tasks": {}}
    text = text_of(int8() | {"artifacts": [artifact]})
    assert "no task was scored" in text
