"""Choose what of the evaluation text goes into the bundle as its proof."""

import numpy as np

from pipeline.bundle.proof import Proof
from pipeline.config import GatesConfig, NumericType
from pipeline.measure.quality.quality import Expected


def make_proof(expected: Expected, count: int, kind: NumericType, gates: GatesConfig) -> Proof:
    """Take ``count`` texts from the shortest to the longest, with the reference's vectors.

    An engine has to reach on them what an artifact has to reach in validation.
    """
    order = np.argsort([len(row.ids) for row in expected.rows], kind="stable")
    ranks = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
    chosen = order[ranks]
    limits = {
        "cosine.mean": gates.cosine_mean.get(kind),
        "cosine.p1": gates.cosine_p1.get(kind),
        "invariance.batch": gates.invariance.get(kind),
        "invariance.padding": gates.invariance.get(kind),
        "vectors.finite": gates.vectors_finite,
        "vectors.nonzero": gates.vectors_nonzero,
    }
    return Proof(
        texts=[expected.texts[i].text for i in chosen],
        vectors=expected.embeddings[chosen],
        gates={name: float(least) for name, least in limits.items() if least is not None},
    )
