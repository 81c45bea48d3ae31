"""Say what labelled text is: scored pairs, judged collections, and texts of labelled clusters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPairs:
    """Sentence pairs with a human score of how similar they are.

    ``metric`` is ``spearman``, or ``cosine_ap`` where a score says 1, they mean the same, or 0.
    ``prompts`` names those that fit the task, best first.
    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    scores: tuple[float, ...]
    metric: str = "spearman"
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrieval:
    """Queries, documents, and for each query the gain (1 or more) of relevant document indices.

    ``exclude_self`` is set where queries are documents too (paraphrase groups); ``own`` has the
    document that is not found by a query, where some are documents too. ``candidates`` are the
    documents that each query ranks (reranking), None: all. Prompts are names, best first.
    """

    name: str
    metric: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[Mapping[int, int], ...]
    exclude_self: bool = False
    own: Mapping[int, int] = field(default_factory=dict)
    candidates: tuple[Sequence[int], ...] | None = None
    query_prompts: tuple[str, ...] = ()
    document_prompts: tuple[str, ...] = ()

    @property
    def is_search(self) -> bool:
        """Whether every query is for all documents, as in an index."""
        return not self.exclude_self and not self.own and self.candidates is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Texts, by index and maybe several times, that are clustered into ``clusters``.

    ``labels`` has the cluster that each belongs to.
    """

    texts: Sequence[int]
    labels: Sequence[int]
    clusters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """Texts whose clusters are known, and the experiments that look for them.

    ``batch_size`` and ``seed`` are those of mini-batch k-means. Prompts are names, best first.
    """

    name: str
    texts: tuple[str, ...]
    experiments: tuple[Experiment, ...]
    batch_size: int
    seed: int
    metric: str = "v_measure"
    prompts: tuple[str, ...] = ()


Task = ScoredPairs | Retrieval | Clustering


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What a file of the user's gives: text for each side, tasks and kinds of the second."""

    calibration: Sequence[str]
    evaluation: Sequence[str]
    tasks: Sequence[Task]
    kinds: Mapping[str, str]
