"""The text that every row is calibrated and measured on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DatasetConfig, DatasetFormat
from pipeline.text.datasets import load_dataset, spread
from pipeline.text.labelled import Retrieval, ScoredPairs

DOCUMENTS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Calibration text, and the evaluation text that none of it is part of.

    Cosines are of ``sentences`` and ``documents``. ``retrieval`` is None where nDCG is skipped: it
    needs every document of the collection. ``unique`` is what has to be embedded.
    """

    calibration: tuple[str, ...]
    sentences: tuple[str, ...]
    documents: tuple[str, ...]
    similarity: ScoredPairs
    retrieval: Retrieval | None

    @property
    def unique(self) -> tuple[str, ...]:
        """Every text that a metric needs, once."""
        task = self.retrieval
        searched = () if task is None else (*task.queries, *task.documents)
        return tuple(dict.fromkeys((*self.sentences, *self.documents, *searched)))

    @property
    def sha256(self) -> str:
        """What a result has to share with another to stand in one table with it."""
        digest = hashlib.sha256()
        for group in (self.calibration, self.sentences, self.documents):
            for text in group:
                digest.update(text.encode() + b"\0")
        return digest.hexdigest()


def load_texts(stsb: Path, nfcorpus: Path, *, quick: bool, documents: int = DOCUMENTS) -> Texts:
    """Read the bundled calibration text, STSb's test pairs and a BEIR collection.

    Of the collection, every n-th document is taken for the cosines, ``documents`` in all; ``quick``
    drops nDCG.

    Raises:
        ValueError: a calibration text is among the evaluation texts.
    """
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    pairs = load_dataset(
        DatasetConfig(
            name="stsb",
            format=DatasetFormat.csv,
            path=str(stsb / "test.csv"),
            sentence1_column="sentence1",
            sentence2_column="sentence2",
            score_column="score",
        )
    )
    beir = load_dataset(
        DatasetConfig(name="nfcorpus", format=DatasetFormat.beir, path=str(nfcorpus))
    )
    similarity, retrieval = pairs.tasks[0], beir.tasks[0]
    assert isinstance(similarity, ScoredPairs)
    assert isinstance(retrieval, Retrieval)
    texts = Texts(
        calibration=sample.calibration,
        sentences=pairs.evaluation,
        documents=tuple(spread(list(dict.fromkeys(retrieval.documents)), documents)),
        similarity=similarity,
        retrieval=None if quick else retrieval,
    )
    common = set(texts.calibration) & set(texts.unique)
    if common:
        raise ValueError(f"{len(common)} calibration texts are evaluated on too: {min(common)!r}")
    return texts
