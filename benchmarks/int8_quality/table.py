"""Results to Markdown."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.int8_quality.rows import Row
from benchmarks.int8_quality.texts import Texts
from pipeline.flow.environment import describe_environment

Result = Mapping[str, Any]

_QUALITY = (
    "quantizer",
    "int8 GEMMs",
    "static",
    "STSb cosine mean",
    "p1",
    "min",
    "neighbours",
    "nfcorpus cosine mean",
    "p1",
    "min",
    "neighbours",
    "STSb Spearman",
    "nfcorpus nDCG@10",
    "seconds",
    "MB",
)
_CONTENTS = ("quantizer", "setting", "linear GEMMs in int8", "in int8 besides", "versions")


def render(
    results: Sequence[tuple[Row, Result]], texts: Texts, reference: Mapping[str, Any]
) -> str:
    """Return both tables and the lines that say what they were measured on.

    ``reference`` holds the metrics of PyTorch fp32 itself.
    """
    return "\n".join(
        [
            _conditions(texts),
            _reference_scores(reference),
            "",
            *_table(_QUALITY, [_quality(row, result) for row, result in results]),
            "",
            "What each row was asked for, and what its graph holds:",
            "",
            *_table(_CONTENTS, [_contents(row, result) for row, result in results]),
        ]
    )


def write_between_markers(path: Path, model: str, text: str) -> None:
    """Replace what stands between the model's two marker comments.

    Raises:
        ValueError: the file does not hold each marker once, in order.
    """
    begin, end = (f"<!-- benchmarks.int8_quality {model}: {side} -->" for side in ("begin", "end"))
    old = path.read_text("utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise ValueError(f"{path}: expected the lines {begin} and {end}, once each")
    head, rest = old.split(begin)
    tail = rest.split(end)[1]
    path.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}", "utf-8")


def _conditions(texts: Texts) -> str:
    environment = describe_environment()
    packages = environment["packages"]
    return (
        f"{len(texts.calibration)} calibration texts; {len(texts.sentences)} STSb test sentences, "
        f"{len(texts.documents)} nfcorpus documents. {environment['cpu']}, {os.cpu_count()} cores, "
        f"Python {environment['python']}, torch {packages['torch']}, "
        f"ONNX graphs run in onnxruntime-gpu {packages['onnxruntime-gpu']} on the CPU."
    )


def _reference_scores(reference: Mapping[str, Any]) -> str:
    scores = f"PyTorch fp32 has an STSb Spearman of {reference['spearman']:.2f}"
    if reference["ndcg_at_10"] is not None:
        scores += f" and an nfcorpus nDCG@10 of {reference['ndcg_at_10']:.2f}"
    return f"{scores}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]


def _quality(row: Row, result: Result) -> list[str]:
    if "failed" in result:
        return [row.title, f"failed: {result['failed']}", *[""] * (len(_QUALITY) - 2)]
    metrics, gemms = result["metrics"], result["gemms"]
    return [
        row.title,
        f"{gemms['int8']} of {gemms['linear']}",
        {True: "yes", False: "no", None: "–"}[gemms["static"]],
        *_agreement(metrics["stsb"]),
        *_agreement(metrics["nfcorpus"]),
        f"{metrics['spearman']:.2f}",
        _number(metrics["ndcg_at_10"], 2),
        _number(result["seconds"], 1),
        f"{result['bytes'] / 1e6:.1f}",
    ]


def _agreement(agreement: Mapping[str, Any]) -> list[str]:
    overlap = agreement["neighbor_overlap_at_10"]
    cosines = [f"{agreement[key]:.5f}" for key in ("mean", "p1", "min")]
    return [*cosines, "–" if overlap is None else f"{100 * overlap:.1f} %"]


def _contents(row: Row, result: Result) -> list[str]:
    if "failed" in result:
        return [row.title, row.setting, "–", "–", "–"]
    gemms = result["gemms"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [row.title, row.setting, _linear(gemms), _besides(gemms), versions]


def _linear(gemms: Mapping[str, Any]) -> str:
    kind = {True: ", static activations", False: ", dynamic activations", None: ""}
    text = f"{gemms['int8']} of {gemms['linear']}{kind[gemms['static']]}"
    if gemms["weight_only"]:
        text += f"; {gemms['weight_only']} with int8 weights and float arithmetic"
    return text


def _besides(gemms: Mapping[str, Any]) -> str:
    parts = []
    if gemms["attention"]:
        parts.append(f"{gemms['attention']} attention GEMMs")
    if gemms["embeddings"]:
        parts.append(f"{gemms['embeddings']} embedding tables")
    parts += [f"{count} inputs of {kind}" for kind, count in gemms["other"].items()]
    return ", ".join(parts) or "nothing"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
