"""Load text to calibrate on and to validate on; the two never share a sentence.

Labelled text (scored pairs, a retrieval collection) validates; unlabelled text is split by
``calibration_fraction``. The bundled sample set's calibration half is always added to
calibration, since variety matters more there than domain.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TypeVar

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.errors import ConfigError, DatasetError
from pipeline.text.labelled import Labelled, Retrieval, ScoredPairs, Task
from pipeline.text.mteb_tasks import read_mteb_task
from pipeline.text.readers import read_beir, read_records
from pipeline.text.splits import calibrates, connected

Item = TypeVar("Item")

MIN_EVALUATION = 12
"""Fewer sentences than this have no ten neighbours to compare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Two sets of sentences without a common one, and the tasks of the second.

    ``kinds`` names the kind of evaluation texts that have one.
    """

    name: str
    calibration: tuple[str, ...]
    evaluation: tuple[str, ...]
    tasks: tuple[Task, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    text: str
    group: str
    kind: str | None = None


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
        return _dataset(config, _of_sentences(config.name, sample_calibration, sample_evaluation))
    known = [row.text for row in sample_calibration]
    if config.format is DatasetFormat.mteb:
        task = read_mteb_task(config.task, config.split, config.subset)
        return _dataset(replace(config, name=task.tasks[0].name), task, known)
    if config.path is None:
        raise ConfigError(f"dataset.path is not set; dataset={config.name} reads a file of yours")
    path = Path(config.path)
    if not path.exists():
        raise DatasetError(f"dataset.path={config.path}: no such file or directory")
    is_beir = config.format is DatasetFormat.beir
    own = _read_collection(path, config) if is_beir else _read_table(path, config)
    return _dataset(config, own, known)


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """Return at most ``limit`` items, evenly spaced, so that every kind stays represented."""
    if len(items) <= limit:
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _dataset(config: DatasetConfig, own: Labelled, more: Sequence[str] = ()) -> Dataset:
    """Drop repeats and keep the two sides apart; ``more`` calibrates too."""
    evaluation = tuple(dict.fromkeys(own.evaluation))
    held = set(evaluation)
    calibration = tuple(t for t in dict.fromkeys([*own.calibration, *more]) if t not in held)
    if len(evaluation) < MIN_EVALUATION:
        raise DatasetError(
            f"dataset={config.name}: {len(evaluation)} different sentences to validate on, "
            f"expected at least {MIN_EVALUATION}; give more text, or lower "
            "dataset.calibration_fraction"
        )
    return Dataset(
        name=config.name,
        calibration=calibration,
        evaluation=evaluation,
        tasks=tuple(own.tasks),
        kinds={text: own.kinds[text] for text in evaluation if text in own.kinds},
    )


def _read_sample() -> tuple[list[_Row], list[_Row]]:
    lines = resources.files("pipeline").joinpath("text/data/sample.jsonl").read_text("utf-8")
    halves: dict[str, list[_Row]] = {"calibration": [], "evaluation": []}
    for line in lines.splitlines():
        row = json.loads(line)
        halves[row["split"]].append(_Row(text=row["text"], group=row["group"], kind=row["kind"]))
    return halves["calibration"], halves["evaluation"]


def _paraphrase_task(name: str, rows: Sequence[_Row]) -> Retrieval:
    """Make a retrieval task of groups: each text's right answers are the others of its group."""
    rows = list({row.text: row for row in rows}.values())
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.group, []).append(i)
    texts = tuple(row.text for row in rows)
    relevant = tuple({j: 1 for j in groups[row.group] if j != i} for i, row in enumerate(rows))
    return Retrieval(
        name=name,
        metric="recall_at_10",
        queries=texts,
        documents=texts,
        relevant=relevant,
        exclude_self=True,
    )


def _of_sentences(name: str, calibration: Sequence[_Row], evaluation: Sequence[_Row]) -> Labelled:
    """Take rows as they are; groups of the second side that hold two texts make a task."""
    task = _paraphrase_task(name, evaluation)
    return Labelled(
        calibration=[row.text for row in calibration],
        evaluation=[row.text for row in evaluation],
        tasks=[task] if any(task.relevant) else [],
        kinds={row.text: row.kind for row in evaluation if row.kind is not None},
    )


def _read_collection(path: Path, config: DatasetConfig) -> Labelled:
    """Read a retrieval collection; all of it validates."""
    beir = read_beir(path, config.split)
    task = Retrieval(
        name=config.name,
        metric="ndcg_at_10",
        queries=beir.queries,
        documents=beir.documents,
        relevant=beir.relevant,
        query_prompts=("query",),
        document_prompts=("document",),
    )
    return Labelled(
        calibration=[],
        evaluation=[*beir.queries, *beir.documents],
        tasks=[task],
        kinds=dict.fromkeys(beir.documents, "document") | dict.fromkeys(beir.queries, "query"),
    )


def _read_table(path: Path, config: DatasetConfig) -> Labelled:
    """Read sentences or scored pairs."""
    kind = config.kind_column
    if config.text_column is not None:
        labels = [c for c in (config.group_column, kind) if c is not None]
        rows = [
            _Row(
                text=r[config.text_column],
                group=r.get(config.group_column or "") or r[config.text_column],
                kind=r.get(kind or ""),
            )
            for _, r in read_records(path, config.format, [config.text_column], labels)
        ]
        return _split_sentences(config, rows)
    first, second, score = config.sentence1_column, config.sentence2_column, config.score_column
    if first is None or second is None or score is None:
        raise ConfigError(
            f"dataset={config.name}: set dataset.text_column, or all of sentence1_column, "
            "sentence2_column and score_column"
        )
    labels = [c for c in (score, kind) if c is not None]
    pairs, scores = [], []
    kinds: dict[str, str] = {}
    for where, r in read_records(path, config.format, [first, second], labels):
        pairs.append((r[first], r[second]))
        scores.append(_number(r[score]))
        if not math.isfinite(scores[-1]):
            raise DatasetError(
                f"{where}: {score}={r[score]!r} is not a number; set dataset.score_column"
            )
        if kind is not None:
            kinds |= dict.fromkeys(pairs[-1], r[kind])
    return _split_pairs(config, pairs, scores, kinds)


def _number(text: str) -> float:
    """Return the number, or NaN where the text is none; 1_0 is one to Python alone."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _split_sentences(config: DatasetConfig, rows: Sequence[_Row]) -> Labelled:
    side = [calibrates(row.group, config.calibration_fraction) for row in rows]
    calibration = [row for row, c in zip(rows, side, strict=True) if c]
    used = {row.text for row in calibration}
    evaluation = [row for row, c in zip(rows, side, strict=True) if not c and row.text not in used]
    return _of_sentences(config.name, calibration, evaluation)


def _split_pairs(
    config: DatasetConfig,
    pairs: Sequence[tuple[str, str]],
    scores: Sequence[float],
    kinds: Mapping[str, str],
) -> Labelled:
    """Split pairs so that pairs with a common sentence, however remotely, stay together."""
    component = connected(pairs)
    side = [calibrates(component[a], config.calibration_fraction) for a, _ in pairs]
    kept = [(p, s) for p, s, c in zip(pairs, scores, side, strict=True) if not c]
    if len({s for _, s in kept}) < 2:
        raise DatasetError(
            f"dataset={config.name}: the pairs left to validate on all have one score; "
            "give more pairs, or lower dataset.calibration_fraction"
        )
    task = ScoredPairs(
        name=config.name, pairs=tuple(p for p, _ in kept), scores=tuple(s for _, s in kept)
    )
    return Labelled(
        calibration=[t for p, c in zip(pairs, side, strict=True) if c for t in p],
        evaluation=[t for p, _ in kept for t in p],
        tasks=[task],
        kinds=kinds,
    )
