"""Run every check of every family of encoders, and write the table in docs/models.md from it.

    python -m benchmarks.architectures --results FILE [FAMILY ...]

The checks are those of ``tests/test_families.py``, the families those of ``tests/helpers/``. FILE
gets one line of JSON a check as it ends; a run that is started again with other families adds to
it, and of a check that ran twice the later counts. A family's row says "not run" of the checks
that FILE does not have.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.marked_page import write_between
from pipeline.source.chain import REASONS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"

CHECKS = {
    "test_every_length_and_padding_equals_the_sentence_transformer": "fp32",
    "test_the_graph_computes_what_the_modules_do_on_the_other_padding_side": "padding",
    "test_fp16_agrees": "fp16",
    "test_int8_agrees": "int8",
    "test_openvino_agrees": "OpenVINO",
    "test_the_graph_for_cuda_is_the_sentence_transformer_at_every_length_and_padding": "CUDA",
    "test_a_tensorrt_rtx_plan_runs_what_int8_says": "RTX plan",
    "test_attention_is_one_operator_only_where_the_mask_is_padding": "attention",
    "test_the_rewrites_for_engines_are_exact": "engine forms",
    "test_pytorch_runs_the_graph_for_reconstruction_and_targets": "int8_max",
    "test_what_no_graph_can_hold_stops_at_export_by_its_name": "stops",
}
_PLACES = re.compile(r"(?<=\s)['\"]?/\S+/")
"""Directories of this run, which say nothing on a page."""

Outcomes = dict[str, dict[str, dict[str, Any]]]
"""By family and check: ``outcome``, ``reason`` and the check's own figures."""


class Recorder:
    """A plugin of pytest that writes each check's outcome and figures down as it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write a line for each call, and for each set-up that did not get there."""
        if report.when != "call" and report.outcome == "passed":
            return
        test, _, family = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
        if report.when == "teardown" or test not in CHECKS:
            return
        line = {
            "family": family,
            "check": CHECKS[test],
            "outcome": report.outcome,
            "reason": _reason(report),
            **dict(report.user_properties),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _reason(report: Any) -> str:
    if report.outcome == "passed":
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    crash = getattr(report.longrepr, "reprcrash", None)
    return " ".join(str(crash.message if crash else report.longrepr).split())[:300]


def read_outcomes(path: Path) -> Outcomes:
    """Return the latest outcome of each check of each family."""
    outcomes: Outcomes = {}
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        outcomes.setdefault(entry["family"], {})[entry["check"]] = entry
    return outcomes


def make_table(families: Mapping[str, Any], stopping: Mapping[str, Any], outcomes: Outcomes) -> str:
    """Return the table of the families whose export was checked, and of those that stop there."""
    heads = (
        "| family | encoder | pooling | padding | fp32 | fp16: lowest cosine "
        "| int8: mean cosine, GEMMs | OpenVINO | for CUDA | RTX plan of int8 "
        "| attention as one operator |"
    )
    lines = [heads, "|---" * 11 + "|"]
    for name, family in families.items():
        seen = outcomes.get(name, {})
        if "fp32" in seen:
            lines.append(_row(name, family, seen))
    for name, family in stopping.items():
        stops = outcomes.get(name, {}).get("stops", {})
        if "stops" in stops:
            lines.append(_stopped(f"`{name}`", _encoder(family), stops["stops"]))
    for module in ("StaticEmbedding", "CLIPModel"):
        lines.append(_stopped(f"module {module}", "", REASONS[module]))
    return "\n".join(lines)


def _encoder(family: Any) -> str:
    return str(family.config.removesuffix("Config"))


def _stopped(name: str, encoder: str, reason: str) -> str:
    words = reason.replace("|", "/").split("; ")[0][:200]
    cells = [name, encoder, "", "", f"**stops**: {words}", *[""] * 6]
    return f"| {' | '.join(cells)} |"


def _row(name: str, family: Any, seen: Mapping[str, Mapping[str, Any]]) -> str:
    def figure(check: str, key: str, form: str = "") -> str:
        entry = seen.get(check, {})
        return format(entry[key], form) if key in entry else ""

    plan = "built" if figure("RTX plan", "attention") == "fused" else "built, attention in parts"
    int8 = f"{figure('int8', 'cosine', '.4f')}, {figure('int8', 'gemms')}"
    stops = figure("int8", "stops").partition("; ")[0]
    cells = [
        f"`{name}`",
        _encoder(family),
        ", ".join(_describe(module) for module in family.chain()),
        family.padding,
        _cell(seen, "equal", "fp32", "padding", "engine forms"),
        _cell(seen, figure("fp16", "cosine", ".7f"), "fp16"),
        f"**stops**: {stops}" if stops else _cell(seen, int8, "int8", "int8_max"),
        _cell(seen, "equal", "OpenVINO"),
        _cell(seen, f"equal, {figure('CUDA', 'fused')} fused", "CUDA"),
        "" if stops else _cell(seen, plan, "RTX plan"),
        _cell(seen, f"{figure('attention', 'fused')} of 2", "attention"),
    ]
    return f"| {' | '.join(cells)} |"


def _describe(module: Any) -> str:
    name = type(module).__name__
    if name != "Pooling":
        return "L2" if name == "Normalize" else name
    modes = module.pooling_mode
    return modes if isinstance(modes, str) else "+".join(modes)


def _cell(seen: Mapping[str, Mapping[str, Any]], passed: str, *checks: str) -> str:
    """Return ``passed``, or which check did not and why."""
    for check in checks:
        entry = seen.get(check)
        if entry is None:
            return "not run"
        if entry["outcome"] != "passed":
            word = "not run" if entry["outcome"] == "skipped" else f"**no** ({check})"
            reason = entry.get("faults") or entry["reason"]
            return f"{word}: {_PLACES.sub('', reason).replace('|', '/')[:120]}"
    return passed


def write_page(table: str) -> None:
    """Put the table between its marks in docs/models.md."""
    write_between(PAGE, BEGIN, END, table)


def main() -> int:
    """Run the checks, then write the page; exit as pytest does."""
    import pytest

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--page-only", action="store_true", help="run nothing: FILE to the page")
    parser.add_argument("family", nargs="*", help="none: all")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from families import FAMILIES
    from more_families import MORE, STOPS

    families = FAMILIES | MORE
    code = 0
    if not arguments.page_only:
        known = [*families, *STOPS]
        names = arguments.family or known
        unknown = sorted(set(names) - set(known))
        if unknown:
            parser.error(f"{', '.join(unknown)}: not among {', '.join(known)}")
        chosen = " or ".join(f"[{name}]" for name in names)
        code = int(
            pytest.main(
                [
                    str(ROOT / "tests" / "test_families.py"),
                    *("-q", "-p", "no:cacheprovider", "-m", "whole or not whole", "-k", chosen),
                ],
                plugins=[Recorder(arguments.results)],
            )
        )
    write_page(make_table(families, STOPS, read_outcomes(arguments.results)))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
