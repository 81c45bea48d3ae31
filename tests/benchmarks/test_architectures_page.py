"""The table of architectures: what outcomes become, and that the page has what is tested."""

import json
from pathlib import Path
from typing import Any

from families import FAMILIES
from more_families import MORE, ON_EVERY_COMMIT, STOPS

from benchmarks.architectures import BEGIN, CHECKS, END, PAGE, make_table, read_outcomes

FIGURES: dict[str, dict[str, Any]] = {
    "fp16": {"cosine": 0.99999},
    "int8": {"cosine": 0.9987, "gemms": 12},
    "CUDA": {"fused": 2},
    "attention": {"fused": 2},
    "RTX plan": {"attention": "fused"},
}


def write_outcomes(path: Path, **changed: dict[str, str]) -> Path:
    with path.open("a") as file:
        for check in CHECKS.values():
            line = {"family": "albert", "check": check, "outcome": "passed", "reason": ""}
            file.write(json.dumps(line | FIGURES.get(check, {}) | changed.get(check, {})) + "\n")
    return path


def row(path: Path) -> list[str]:
    line, *modules = make_table(MORE, STOPS, read_outcomes(path)).splitlines()[2:]
    assert all(line.startswith("| module ") for line in modules)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_says_what_passed_and_with_which_figure(tmp_path: Path) -> None:
    assert row(write_outcomes(tmp_path / "results.jsonl")) == [
        *("`albert`", "Albert", "mean, L2", "right"),
        *("equal", "0.9999900", "0.9987, 12", "equal", "equal, 2 fused", "built", "2 of 2"),
    ]


def test_a_row_says_what_did_not_and_why_and_the_later_outcome_counts(tmp_path: Path) -> None:
    failed = {"fp16": {"outcome": "failed", "reason": "cannot open /a/run-1/x.onnx: 0.5 | 0.9"}}
    path = write_outcomes(tmp_path / "results.jsonl", **failed)
    assert row(path)[5] == "**no** (fp16): cannot open x.onnx: 0.5 / 0.9"
    assert row(write_outcomes(path))[5] == "0.9999900"


def test_a_check_that_has_not_ended_is_not_run_and_without_fp32_there_is_no_row(
    tmp_path: Path,
) -> None:
    path = write_outcomes(tmp_path / "results.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if '"RTX plan"' not in line))
    assert row(path)[9] == "not run"
    path.write_text("\n".join(line for line in lines if '"fp32"' not in line))
    assert "`albert`" not in make_table(MORE, STOPS, read_outcomes(path))


def test_a_plans_faults_are_named_in_its_own_words(tmp_path: Path) -> None:
    failed = {"outcome": "failed", "reason": "assert 1", "faults": "c_attn computes in fp16 (Fc)"}
    cells = row(write_outcomes(tmp_path / "results.jsonl", **{"RTX plan": failed}))
    assert cells[9] == "**no** (RTX plan): c_attn computes in fp16 (Fc)"


def test_int8_that_stops_leaves_the_other_precisions_and_no_plan(tmp_path: Path) -> None:
    stops = {"int8": {"stops": "albert: no MatMul but 12 Conv; use precision=fp16"}}
    skipped = {"outcome": "skipped", "reason": "int8 covers nothing of it"}
    left = stops | {"int8_max": skipped, "RTX plan": skipped}
    cells = row(write_outcomes(tmp_path / "results.jsonl", **left))
    assert cells[4:10] == [
        *("equal", "0.9999900", "**stops**: albert: no MatMul but 12 Conv"),
        *("equal", "equal, 2 fused", ""),
    ]


def test_what_stops_has_a_row_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    line = {"family": "fnet", "check": "stops", "outcome": "passed", "reason": ""}
    path.write_text(json.dumps(line | {"stops": "fnet: its FNetModel mixes | padding; serve it"}))
    cells = row(path)
    assert cells[:2] == ["`fnet`", "FNet"]
    assert cells[4] == "**stops**: fnet: its FNetModel mixes / padding"
    assert len(cells) == 11


def test_the_page_has_a_row_for_each_family_that_is_tested_beside_the_first() -> None:
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1:5] for line in table.splitlines() if line.startswith("| `")]
    names = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in rows}
    assert set(names) >= ON_EVERY_COMMIT
    families = FAMILIES | MORE | STOPS
    for name, (encoder, _, padding) in names.items():
        expected = "" if name in STOPS else families[name].padding
        assert (families[name].config, padding) == (f"{encoder}Config", expected)
