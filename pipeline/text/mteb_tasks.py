"""Read a task of the benchmark mteb as labelled text: STS, retrieval, reranking, pairs, clusters.

mteb fetches from the hub and keeps what it fetched (``HF_HOME``). Texts, prompts, splits and the
main metric are those that mteb takes: https://github.com/embeddings-benchmark/mteb, read at 2.26.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import ConfigError, DatasetError
from pipeline.text.labelled import Clustering, Labelled, Retrieval, ScoredPairs, Task
from pipeline.text.mteb_clusters import make_clustering

_METRIC = re.compile(r"(ndcg|recall|map|hit_rate)_at_[1-9]\d{0,3}|mrr_at_10")


def read_mteb_task(name: str | None, split: str, subset: str | None) -> Labelled:
    """Fetch a task, or take it from the cache; all of it validates.

    Raises:
        ConfigError: mteb is not installed, or has no such task, split or subset.
        DatasetError: the task cannot be fetched, or is of a kind that is not measured here.
    """
    if name is None:
        raise ConfigError("dataset.task is not set; dataset=mteb reads a task: STSBenchmark")
    task = _find(name)
    translate = _translation(task)
    split = _one_of("split", split, task.eval_splits, task.metadata.name)
    subset = _one_of("subset", subset, task.hf_subsets, task.metadata.name)
    _load(task)
    labelled = translate(task, _rows(task, split, subset))
    kinds = {}
    if isinstance(labelled, Retrieval):
        kinds = dict.fromkeys(labelled.documents, "document")
        kinds |= dict.fromkeys(labelled.queries, "query")
    return Labelled(calibration=[], evaluation=_texts(labelled), tasks=[labelled], kinds=kinds)


def _texts(task: Task) -> Sequence[str]:
    if isinstance(task, Retrieval):
        return [*task.queries, *task.documents]
    if isinstance(task, Clustering):
        return task.texts
    return [text for pair in task.pairs for text in pair]


def _find(name: str) -> Any:
    """Return the task; one of retrieval may leave its last word away: NanoNFCorpus."""
    try:
        import mteb
    except ImportError as error:
        raise ConfigError(
            "dataset=mteb needs the extra mteb: pip install 'sentence-transformer-trt[mteb]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name's new spelling, of beta tasks
        unknown: KeyError | None = None
        for spelled in (name, f"{name}Retrieval"):
            try:
                return mteb.get_task(spelled)
            except KeyError as error:
                unknown = unknown or error
    said = str(unknown.args[0] if unknown else "").removeprefix("KeyError: ")
    raise ConfigError(f"dataset.task={name}: mteb says: {said}") from unknown


def _translation(task: Any) -> Any:
    """Return the function that makes a task of ours, by the kind of mteb's."""
    kinds = {
        "STS": _pairs,
        "PairClassification": _pairs,
        "Retrieval": _retrieval,
        "Reranking": _retrieval,
        "Clustering": _clusters,
    }
    metadata = task.metadata
    what = f"dataset.task={metadata.name}"
    if metadata.type not in kinds or list(metadata.modalities) != ["text"]:
        of = f"{metadata.type} of {', '.join(metadata.modalities)}"
        raise DatasetError(f"{what} is {of}; measured here are {', '.join(kinds)} of text")
    searches = kinds[metadata.type] is _retrieval
    if searches and (not _METRIC.fullmatch(metadata.main_score) or task.skip_first_result):
        raise DatasetError(
            f"{what} is judged by {metadata.main_score}; measured here are nDCG, recall, map and "
            "hit rate at a number, and MRR at 10"
        )
    return kinds[metadata.type]


def _one_of(key: str, wanted: str | None, offered: Sequence[str], task: str) -> str:
    """Return what is wanted, or the only one there is."""
    if wanted in offered:
        return str(wanted)
    if len(offered) == 1:
        return str(offered[0])
    known = ", ".join(sorted(offered))
    raise ConfigError(f"dataset.{key}={wanted}: {task} has {known}; set dataset.{key} to one")


def _load(task: Any) -> None:
    """Have mteb fetch the task's data, or take it from the cache."""
    metadata = task.metadata
    try:
        task.load_data()
        if hasattr(task, "convert_v1_dataset_format_to_v2"):
            task.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:  # datasets, the hub and its HTTP client each have their own
        reason = " ".join(str(error).split())[:160]
        raise DatasetError(
            f"dataset.task={metadata.name}: {metadata.dataset['path']} at revision "
            f"{metadata.dataset.get('revision')} is not in the cache and could not be fetched "
            f"({type(error).__name__}: {reason}); where the hub is in reach run python -c "
            f"\"import mteb; mteb.get_task('{metadata.name}').load_data()\", then copy "
            "~/.cache/huggingface here and set HF_HOME to it"
        ) from error


def _rows(task: Any, split: str, subset: str) -> Any:
    """Return the split's rows, as ``_evaluate_subset`` of mteb gets them."""
    data = task.dataset
    return data[split] if subset not in data and subset == "default" else data[subset][split]


def _prompts(metadata: Any, role: str | None = None) -> tuple[str, ...]:
    """Return the names of a model's prompts that mteb looks for, in its order."""
    names = (metadata.name, metadata.type)
    if role is None:
        return names
    return (*(form for name in names for form in (f"{name}-{role}", name)), role)


def _pairs(task: Any, rows: Any) -> Task:
    """Make scored pairs; mteb's older pair classification has all of them in one row."""
    metadata = task.metadata
    scored = metadata.type == "STS"
    if scored:
        columns = [*task.column_names, "score"]
    else:
        columns = [task.input1_column_name, task.input2_column_name, task.label_column_name]
        rows = rows[0] if len(rows) == 1 else rows
    if not all(isinstance(column, str) for column in columns):
        raise DatasetError(f"dataset.task={metadata.name}: a pair of it is more than two texts")
    first, second, scores = (list(rows[column]) for column in columns)
    return ScoredPairs(
        name=metadata.name,
        pairs=tuple(zip(first, second, strict=True)),
        scores=tuple(float(score) for score in scores),
        metric="spearman" if scored else "cosine_ap",
        prompts=_prompts(metadata),
    )


def _clusters(task: Any, rows: Any) -> Task:
    return make_clustering(task, rows, _prompts(task.metadata))


def _retrieval(task: Any, rows: Any) -> Task:
    """Make a collection of queries, documents and judgements."""
    metadata, judged = task.metadata, rows["relevant_docs"]
    documents = {str(row["id"]): _document(row) for row in rows["corpus"]}
    queries = {str(row["id"]): _query(row) for row in rows["queries"] if judged.get(row["id"])}
    index = {key: i for i, key in enumerate(documents)}
    relevant = [
        {index[key]: int(gain) for key, gain in judged[query].items() if gain > 0 and key in index}
        for query in queries
    ]
    top_ranked: Mapping[str, Sequence[str]] | None = rows["top_ranked"]
    return Retrieval(
        name=metadata.name,
        metric=metadata.main_score,
        queries=tuple(queries.values()),
        documents=tuple(documents.values()),
        relevant=tuple(relevant),
        own={i: index[key] for i, key in enumerate(queries) if key in index}
        if task.ignore_identical_ids
        else {},
        candidates=None
        if top_ranked is None
        else tuple([index[key] for key in top_ranked[query]] for query in queries),
        query_prompts=_prompts(metadata, "query"),
        document_prompts=_prompts(metadata, "document"),
    )


def _document(row: Mapping[str, Any]) -> str:
    return f"{row.get('title') or ''} {row['text']}".strip()


def _query(row: Mapping[str, Any]) -> str:
    """Return a query with its instruction, where it has one."""
    if not isinstance(row["text"], str):
        raise DatasetError(f"query {row['id']!r} is a conversation: only texts are measured here")
    instruction = row.get("instruction")
    return row["text"] if instruction is None else f"{row['text']} {instruction}"
