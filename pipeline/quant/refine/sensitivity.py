"""Find the fewest GEMMs to leave in high precision so that the embeddings agree as asked.

Wu et al., "Integer Quantization for Deep Learning Inference" (arXiv:2004.09602), section 5.1:
quantize one GEMM at a time, rank them by what that costs, and leave the worst out until the
target is met.
"""

import logging
from collections.abc import Mapping, Sequence

from pipeline.progress import track
from pipeline.quant.refine.simulation import HeldBack

log = logging.getLogger(__name__)


def cosine_losses(held_back: HeldBack, names: Sequence[str]) -> Mapping[str, float]:
    """Return what each GEMM costs: 1 - mean cosine with it alone in int8."""
    return {
        name: 1 - held_back.mean_cosine([name])
        for name in track(names, "sensitivity", total=len(names))
    }


def search(
    held_back: HeldBack, losses: Mapping[str, float], target: float
) -> tuple[frozenset[str], float]:
    """Return the GEMMs to keep in int8 so that the mean cosine is at least ``target``, and it.

    The most costly are left out first; each of those left out is then tried again in int8, the
    least costly first, since costs do not add up exactly.
    """
    ranked = sorted(losses, key=lambda name: -losses[name])

    def cosine(left_out: Sequence[str]) -> float:
        return held_back.mean_cosine(set(ranked) - set(left_out))

    low, high = 0, len(ranked)  # leaving ``high`` out always meets the target: that is fp32
    while low < high:
        middle = (low + high) // 2
        if cosine(ranked[:middle]) >= target:
            high = middle
        else:
            low = middle + 1
    left_out = ranked[:high]
    for name in reversed(ranked[:high]):
        fewer = [other for other in left_out if other != name]
        if cosine(fewer) >= target:
            left_out = fewer
    reached = cosine(left_out)
    log.info("%d of %d GEMMs stay in high precision: %.6f", len(left_out), len(ranked), reached)
    return frozenset(ranked) - frozenset(left_out), reached
