"""Whether a side does the same work as the reference, in time that a run can afford."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from benchmarks.cpu_speed.peers.worker import FloatArray
from benchmarks.cpu_speed.texts import TOKENS
from benchmarks.cpu_speed.workers import SideError

SAME_MODEL = 0.9
"""A side whose mean cosine is lower does something else than this model."""

SLOWEST = 4
"""A side slower than the reference by more is not timed."""


def compare(
    reference: Mapping[str, FloatArray], vectors: Mapping[str, FloatArray]
) -> dict[str, float]:
    """Return mean and lowest cosine of the natural texts' vectors with the reference's.

    Raises:
        SideError: the vectors are of another model, or a text's 128th token changes nothing.
    """
    if vectors["natural"].shape != reference["natural"].shape:
        raise SideError(f"vectors of shape {vectors['natural'].shape}")
    cosine = _cosine(reference["natural"], vectors["natural"])
    mean, lowest = float(cosine.mean()), float(cosine.min())
    if not mean >= SAME_MODEL:
        raise SideError(f"mean cosine to fp32 {mean:.3f}: not this model's vectors")
    effect, expected = (
        1 - float(_cosine(v["probe"][:1], v["probe"][1:])[0]) for v in (vectors, reference)
    )
    if effect < expected / 2:
        raise SideError(f"token {TOKENS} changes nothing: the text is cut before it")
    return {"mean": mean, "min": lowest}


def refuse_slow(reference_s: Mapping[str, float], pilot_s: Mapping[str, float]) -> None:
    """Keep a very slow side from taking most of the run's time.

    Raises:
        SideError: in a short pass of some shape it took ``SLOWEST`` times the reference's seconds.
    """
    for shape, seconds in pilot_s.items():
        times = seconds / reference_s[shape]
        if times > SLOWEST:
            raise SideError(
                f"{times:.1f} times slower than PyTorch fp32 in a short pass ({shape}): not timed"
            )


def _cosine(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    cosine: npt.NDArray[np.float64] = (a64 * b64).sum(axis=1) / lengths
    return cosine
