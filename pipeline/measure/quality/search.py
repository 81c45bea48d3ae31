"""Measure what smaller vectors cost a search: recall and nDCG by form of vector, and its bytes.

The truth is exact search over PyTorch's float32 vectors, by cosine. Two stages, binary vectors
first, are those of https://huggingface.co/blog/embedding-quantization: what the first finds,
``OVERSAMPLING`` times as many as are wanted, is ranked anew by better vectors of the documents.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.measure.quality.bootstrap import Interval, mean_interval
from pipeline.measure.quality.retrieval import DEPTH, score_found, top
from pipeline.measure.quality.tasks import MetricScores
from pipeline.runtime.output import dequantize_embeddings, dot_levels, quantize_embeddings
from pipeline.text.labelled import Retrieval
from pipeline.vectors import DoubleArray, FloatArray, unit

OVERSAMPLING = 4
"""Candidates of a first stage for each text wanted: Sentence Transformers' default."""

QUERIES = 1000
"""So many queries at most, evenly spread."""

LEAST_DIMENSIONS = 32

FORMS = (
    "float32",
    "float16",
    "int8",
    "int8_dot",
    "binary",
    "binary_int8",
    "binary_float32",
)
"""Forms of whole vectors; a gate can name each of them."""

_BLOCK = 256
Found = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Queries and documents by the reference, and what exact search finds.

    ``task`` is the collection whose relevance judgements score what is found, None where texts are
    searched among themselves (``exclude_self``). ``ranges`` ``[2, dim]`` are the bundle's.
    """

    query_texts: Sequence[str]
    document_texts: Sequence[str]
    queries: FloatArray
    documents: FloatArray
    exclude_self: bool
    task: Retrieval | None
    ranges: FloatArray
    matryoshka: bool
    exact: Found
    exact_ndcg: DoubleArray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FormScore:
    """One form of vector: ``bytes`` of a text that a search reads, ``bytes_stored`` with rescoring.

    ``recall`` is the mean share of the exact ten that are found. ``ndcg`` is against PyTorch's
    float32 vectors, None without judgements.
    """

    form: str
    dimensions: int
    bytes: int
    bytes_stored: int
    recall: float
    recall_ci95: Interval
    ndcg: MetricScores | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchScores:
    """A collection searched with one model's vectors."""

    queries: int
    documents: int
    among_themselves: bool
    matryoshka: bool
    forms: tuple[FormScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """Vectors whose dot products rank; ``final`` ranks the candidates of the first anew."""

    name: str
    dimensions: int
    bytes: int
    bytes_stored: int
    first: tuple[FloatArray, FloatArray]
    final: tuple[FloatArray, FloatArray] | None = None


def seek(
    query_texts: Sequence[str],
    document_texts: Sequence[str],
    queries: FloatArray,
    documents: FloatArray,
    *,
    task: Retrieval | None,
    ranges: FloatArray,
    matryoshka: bool,
) -> Sought:
    """Search the reference's vectors exactly; without a ``task`` both sides are the same texts."""
    form = _Form(
        name="exact",
        dimensions=queries.shape[1],
        bytes=0,
        bytes_stored=0,
        first=(unit(queries), unit(documents)),
    )
    exact = _search(form, exclude_self=task is None)
    return Sought(
        query_texts=query_texts,
        document_texts=document_texts,
        queries=queries,
        documents=documents,
        exclude_self=task is None,
        task=task,
        ranges=ranges,
        matryoshka=matryoshka,
        exact=exact,
        exact_ndcg=_ndcg(task, query_texts, exact),
    )


def measure_search(sought: Sought, queries: FloatArray, documents: FloatArray) -> SearchScores:
    """Search the same collection with an artifact's vectors, in every form."""
    return SearchScores(
        queries=len(queries),
        documents=len(documents),
        among_themselves=sought.exclude_self,
        matryoshka=sought.matryoshka,
        forms=tuple(_score(sought, form) for form in _forms(queries, documents, sought.ranges)),
    )


def search_reference(sought: Sought | None) -> SearchScores | None:
    """Search with the reference's own vectors: what their form alone costs."""
    return None if sought is None else measure_search(sought, sought.queries, sought.documents)


def _forms(queries: FloatArray, documents: FloatArray, ranges: FloatArray) -> Iterator[_Form]:
    dim = queries.shape[1]
    packed = -(-dim // 8)
    both = (queries, documents)
    whole = (unit(queries), unit(documents))
    fine = (whole[0], unit(_steps_back(documents, ranges)))
    signs = _pair(np.where(v > 0, np.float32(1), np.float32(-1)) for v in both)
    half = _pair(v.astype(np.float16).astype(np.float32) for v in whole)
    int8 = _pair(unit(_steps_back(v, ranges)) for v in both)
    dot = _pair(unit(dot_levels(v, ranges).astype(np.float32)) for v in both)
    yield _form("float32", dim, 4 * dim, whole)
    yield _form("float16", dim, 2 * dim, half)
    yield _form("int8", dim, dim, int8)
    yield _form("int8_dot", dim, dim, dot)
    yield _form("binary", dim, packed, signs)
    yield _form("binary_int8", dim, packed, signs, fine, dim)
    yield _form("binary_float32", dim, packed, signs, whole, 4 * dim)
    for k in (dim // 2, dim // 4):
        if k >= LEAST_DIMENSIONS:
            yield _form(f"first_{k}", k, 4 * k, _pair(unit(v[:, :k]) for v in both))


def _form(
    name: str,
    dimensions: int,
    read: int,
    first: tuple[FloatArray, FloatArray],
    final: tuple[FloatArray, FloatArray] | None = None,
    more: int = 0,
) -> _Form:
    return _Form(
        name=name,
        dimensions=dimensions,
        bytes=read,
        bytes_stored=read + more,
        first=first,
        final=final,
    )


def _pair(sides: Iterator[FloatArray]) -> tuple[FloatArray, FloatArray]:
    queries, documents = sides
    return queries, documents


def _steps_back(vectors: FloatArray, ranges: FloatArray) -> FloatArray:
    return dequantize_embeddings(quantize_embeddings(vectors, "int8", ranges), ranges)


def _score(sought: Sought, form: _Form) -> FormScore:
    found = _search(form, exclude_self=sought.exclude_self)
    shares = np.array(
        [len({*a} & {*b}) / max(1, len(a)) for a, b in zip(sought.exact, found, strict=True)]
    )
    ndcg = _ndcg(sought.task, sought.query_texts, found)
    return FormScore(
        form=form.name,
        dimensions=form.dimensions,
        bytes=form.bytes,
        bytes_stored=form.bytes_stored,
        recall=float(shares.mean()),
        recall_ci95=mean_interval(shares),
        ndcg=None
        if ndcg is None or sought.exact_ndcg is None
        else MetricScores(
            reference=100 * float(sought.exact_ndcg.mean()),
            artifact=100 * float(ndcg.mean()),
            delta_ci95=mean_interval(100 * (ndcg - sought.exact_ndcg)),
        ),
    )


def _search(form: _Form, *, exclude_self: bool) -> Found:
    """Return the ``DEPTH`` documents of each query, best first."""
    queries, documents = form.first
    count = min(DEPTH, len(documents) - exclude_self)
    found: Found = []
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarity = queries[block] @ documents.T
        for i, row in enumerate(similarity, start):
            if exclude_self:
                row[i] = -np.inf
            if form.final is None:
                found.append(top(row, count))
                continue
            better, candidates = form.final
            first = np.sort(top(row, min(OVERSAMPLING * count, len(row) - exclude_self)))
            again = top(candidates[first] @ better[i], count)
            found.append(first[again].tolist())
    return found


def _ndcg(task: Retrieval | None, texts: Sequence[str], found: Found) -> DoubleArray | None:
    if task is None:
        return None
    index = {text: i for i, text in enumerate(task.queries)}
    by_query = {index[text]: documents for text, documents in zip(texts, found, strict=True)}
    values: Mapping[str, DoubleArray] = score_found(task, by_query)
    return values["ndcg_at_10"]
