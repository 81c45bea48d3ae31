"""Text to calibrate and to validate on; the two never share a sentence.

Labelled text (scored pairs, a retrieval collection) validates; unlabelled text is split by
``calibration_fraction``. The bundled sample set's calibration half is always added to
calibration, since variety matters more there than domain.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.errors import ConfigError, DatasetError
from pipeline.readers import read_beir, read_records

Item = TypeVar("Item")

MIN_EVALUATION = 12
"""Fewer sentences than this have no ten neighbours to compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPairs:
    """Sentence pairs with a human score of how similar they are."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Queries, documents, and for each query the relevance of document indices.

    ``exclude_self`` is set where queries are documents too (paraphrase groups).
    """

    name: str
    metric: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[Mapping[int, float], ...]
    exclude_self: bool = False


Task = ScoredPairs | Retrieval


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Two sets of sentences without a common one, and the tasks of the second."""

    name: str
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    text: str
    group: str


def load_dataset(config: DatasetConfig) -> Dataset:
    """Read the configured text.

    Raises:
        DatasetError: a file or column is missing, a text is empty, or too little is left.
        ConfigError: columns or fractions that contradict each other.
    """
    if not 0 <= config.calibration_fraction < 1:
        raise ConfigError(
            f"dataset.calibration_fraction={config.calibration_fraction}: expected 0 up to, "
            "not including, 1: something has to be left to validate on"
        )
    sample_calibration, sample_evaluation = _read_sample()
    if config.format is DatasetFormat.sample:
        return _dataset(
            config,
            [row.text for row in sample_calibration],
            [row.text for row in sample_evaluation],
            [_paraphrase_task(config.name, sample_evaluation)],
        )
    if config.path is None:
        raise ConfigError(f"dataset.path is not set; dataset={config.name} reads a file of yours")
    path = Path(config.path)
    if not path.exists():
        raise DatasetError(f"dataset.path={config.path}: no such file or directory")
    own: list[str]
    tasks: list[Task]
    if config.format is DatasetFormat.beir:
        beir = read_beir(path, config.split)
        own, evaluation = [], [*beir.queries, *beir.documents]
        tasks = [
            Retrieval(
                name=config.name,
                metric="ndcg_at_10",
                queries=beir.queries,
                documents=beir.documents,
                relevant=beir.relevant,
            )
        ]
    else:
        own, evaluation, tasks = _read_table(path, config)
    calibration = [*own, *(row.text for row in sample_calibration)]
    return _dataset(config, calibration, evaluation, tasks)


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items, evenly spaced, so that every kind stays represented."""
    if len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _dataset(
    config: DatasetConfig,
    calibration: Sequence[str],
    evaluation: Sequence[str],
    tasks: Sequence[Task],
) -> Dataset:
    evaluation = list(dict.fromkeys(evaluation))
    held = set(evaluation)
    calibration = [text for text in dict.fromkeys(calibration) if text not in held]
    if len(evaluation) < MIN_EVALUATION:
        raise DatasetError(
            f"dataset={config.name}: {len(evaluation)} different sentences to validate on, "
            f"expected at least {MIN_EVALUATION}; give more text, or lower "
            "dataset.calibration_fraction"
        )
    return Dataset(
        name=config.name,
        calibration=tuple(calibration),
        evaluation=tuple(evaluation),
        tasks=tuple(tasks),
    )


def _read_sample() -> tuple[list[_Row], list[_Row]]:
    lines = resources.files("pipeline").joinpath("data/sample.jsonl").read_text("utf-8")
    halves: dict[str, list[_Row]] = {"calibration": [], "evaluation": []}
    for line in lines.splitlines():
        row = json.loads(line)
        halves[row["split"]].append(_Row(text=row["text"], group=row["group"]))
    return halves["calibration"], halves["evaluation"]


def _paraphrase_task(name: str, rows: Sequence[_Row]) -> Retrieval:
    """Make a retrieval task of groups: each text's right answers are the others of its group."""
    rows = list({row.text: row for row in rows}.values())
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.group, []).append(i)
    texts = tuple(row.text for row in rows)
    relevant = tuple({j: 1.0 for j in groups[row.group] if j != i} for i, row in enumerate(rows))
    return Retrieval(
        name=name,
        metric="recall_at_10",
        queries=texts,
        documents=texts,
        relevant=relevant,
        exclude_self=True,
    )


def _read_table(path: Path, config: DatasetConfig) -> tuple[list[str], list[str], list[Task]]:
    """Read sentences or scored pairs; return calibration texts, evaluation texts and tasks."""
    pair = (config.sentence1_column, config.sentence2_column, config.score_column)
    if config.text_column is not None:
        columns = [c for c in (config.text_column, config.group_column) if c is not None]
        rows = [
            _Row(text=r[config.text_column], group=r.get(config.group_column or "", ""))
            for _, r in read_records(path, config.format, columns)
        ]
        return _split_sentences(config, rows)
    if None in pair:
        raise ConfigError(
            f"dataset={config.name}: set dataset.text_column, or all of sentence1_column, "
            "sentence2_column and score_column"
        )
    first, second, score = (str(column) for column in pair)
    pairs, scores = [], []
    for number, r in read_records(path, config.format, [first, second, score]):
        pairs.append((r[first], r[second]))
        scores.append(_number(r[score]))
        if not math.isfinite(scores[-1]):
            raise DatasetError(
                f"{path}: row {number}: {score}={r[score]!r} is not a number; "
                "set dataset.score_column"
            )
    return _split_pairs(config, pairs, scores)


def _number(text: str) -> float:
    """Return the number, or NaN where the text is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _split_sentences(
    config: DatasetConfig, rows: Sequence[_Row]
) -> tuple[list[str], list[str], list[Task]]:
    calibration = [r for r in rows if _calibrates(r.group or r.text, config.calibration_fraction)]
    used = {r.text for r in calibration}
    evaluation = [
        r
        for r in rows
        if not _calibrates(r.group or r.text, config.calibration_fraction) and r.text not in used
    ]
    tasks: list[Task] = []
    if len({r.group for r in evaluation}) < len(evaluation) and config.group_column is not None:
        tasks.append(_paraphrase_task(config.name, evaluation))
    return [r.text for r in calibration], [r.text for r in evaluation], tasks


def _split_pairs(
    config: DatasetConfig, pairs: Sequence[tuple[str, str]], scores: Sequence[float]
) -> tuple[list[str], list[str], list[Task]]:
    """Split pairs so that pairs with a common sentence, however remotely, stay together."""
    component = _components(pairs)
    calibrates = [_calibrates(component[a], config.calibration_fraction) for a, _ in pairs]
    calibration = [t for p, c in zip(pairs, calibrates, strict=True) if c for t in p]
    kept = [(p, s) for p, s, c in zip(pairs, scores, calibrates, strict=True) if not c]
    if len({s for _, s in kept}) < 2:
        raise DatasetError(
            f"dataset={config.name}: the pairs left to validate on all have one score; "
            "give more pairs, or lower dataset.calibration_fraction"
        )
    task = ScoredPairs(
        name=config.name, pairs=tuple(p for p, _ in kept), scores=tuple(s for _, s in kept)
    )
    return calibration, [t for p, _ in kept for t in p], [task]


def _components(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Map each sentence to a representative of the sentences it is connected to."""
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {text: root(text) for text in list(parent)}


def _calibrates(key: str, fraction: float) -> bool:
    """Decide by hash, so that the split is the same every night and in any row order."""
    draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return draw < fraction
