"""Choose the int8 GEMMs of an engine by prediction: the set whose plan would be the fastest.

Every combination of roles is built (TensorRT-RTX, on the CPU), in the form that optimize gives the
engines' graph, and timed by the roofline of
``pipeline.engines.layers.predict`` at the lengths of the text; fp16 is one of the combinations, so
the choice is never slower than fp16 by prediction.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.contracts import OnnxModel, Profile
from pipeline.engines.layers.graph import read_graph
from pipeline.engines.layers.predict import GpuPeaks, count_shapes, find_peaks, predict_texts_ms
from pipeline.engines.layers.records import EngineLayers
from pipeline.errors import QuantizeError
from pipeline.graph.files import load_graph
from pipeline.graph.gemms import find_gemm_groups
from pipeline.progress import track
from pipeline.quant.choose.candidates import write_candidate
from pipeline.quant.choose.plan_as_built import plan_as_built
from pipeline.quant.choose.roles import Role, find_roles
from pipeline.text.tokens import TokenRow

log = logging.getLogger(__name__)

SETTING = "precision.engine_aware"
BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is predicted of every set of roles in int8: milliseconds for a thousand texts.

    ``shapes`` counts the batches of the text by batch and sequence.
    """

    gpu: GpuPeaks
    shapes: Mapping[tuple[int, int], int]
    roles: Sequence[Role]
    profile: Profile
    times_ms: Mapping[frozenset[str], float]

    @property
    def fp16_ms(self) -> float:
        """The time with no GEMM in int8."""
        return self.times_ms[frozenset()]

    @property
    def chosen(self) -> frozenset[str]:
        """The roles of the fastest set; of equally fast ones that with the fewest."""
        return min(self.times_ms, key=lambda roles: (self.times_ms[roles], len(roles)))

    @property
    def int8(self) -> frozenset[str]:
        """The GEMMs of the chosen roles."""
        return frozenset(n for role in self.roles if role.name in self.chosen for n in role.gemms)

    def gains_us(self) -> dict[str, float]:
        """Return what each GEMM's role alone in int8 would spare a thousand texts, a block.

        Of several GEMMs that one kernel computes, each has what they spare together.
        """
        gains = {}
        for role in self.roles:
            spared = self.fp16_ms - self.times_ms[frozenset({role.name})]
            copies = len(role.gemms) / len(role.name.split(" + "))
            gains.update(dict.fromkeys(role.gemms, 1e3 * spared / copies))
        return gains

    def predict_graph(self, model: OnnxModel) -> float:
        """Return what is predicted of the plan of a graph, as it is built, in the same measure.

        Raises:
            BuildError: it cannot be built, or its kernels not be listed.
        """
        found = plan_as_built(model, self.profile)
        return _time_ms(found, self.profile, self.gpu, self.shapes)

    def describe(self, final_ms: float) -> dict[str, Any]:
        """Return what the report says of the choice; ``final_ms`` is of the graph that ships."""
        every = frozenset(role.name for role in self.roles)
        return {
            "gpu": self.gpu.label,
            "batch": BATCH,
            "batches": sum(self.shapes.values()),
            "longest_tokens": max(length for _, length in self.shapes),
            "chosen": sorted(self.chosen),
            "predicted_ms_a_thousand_texts": {
                "fp16": self.fp16_ms,
                "int8": self.times_ms[every],
                "chosen": final_ms,
            },
            "sets": [
                {"int8": sorted(roles), "predicted_ms": time}
                for roles, time in sorted(self.times_ms.items(), key=lambda item: item[1])
            ],
        }


def choose_by_prediction(
    model: OnnxModel, gpu: str, rows: Sequence[TokenRow], wide: Sequence[str], work: Path
) -> Choice:
    """Return the predicted times of every set of roles in int8, for the lengths of ``rows``.

    Raises:
        ConfigError: no GPU of that name is known.
        BuildError: a plan cannot be built, or its kernels not be listed.
        QuantizeError: the GPU has no peak for a type that the plans compute in.
    """
    peaks = find_peaks(gpu, SETTING)
    shapes = count_shapes(rows, BATCH)
    longest = max(length for _, length in shapes)
    profile = Profile(min=(1, 1), opt=(BATCH, longest), max=(BATCH, longest))
    groups = find_gemm_groups(load_graph(model).graph)
    roles = find_roles(groups, len(read_graph(model.path).attention))
    sets = [frozenset(of) for n in range(len(roles) + 1) for of in combinations(roles, n)]
    times: dict[frozenset[str], float] = {}
    for chosen in track(sets, "predict", total=len(sets)):
        int8 = {name for role in chosen for name in role.gemms}
        candidate = write_candidate(model, int8, wide, work / "candidate.onnx")
        found = plan_as_built(candidate, profile)
        times[frozenset(role.name for role in chosen)] = _time_ms(found, profile, peaks, shapes)
    for file in work.glob("candidate.onnx*"):
        file.unlink()
    choice = Choice(gpu=peaks, shapes=shapes, roles=roles, profile=profile, times_ms=times)
    log.info(
        "%s by prediction: %s in int8, %.1f ms for a thousand texts; fp16 %.1f ms",
        peaks.label,
        ", ".join(sorted(choice.chosen)) or "nothing",
        times[choice.chosen],
        choice.fp16_ms,
    )
    return choice


def _time_ms(
    found: EngineLayers, profile: Profile, gpu: GpuPeaks, shapes: Mapping[tuple[int, int], int]
) -> float:
    """Return what is predicted for the text's batches, for a thousand texts."""
    time = predict_texts_ms(found, (profile,), gpu, shapes)
    if time is None:
        kinds = sorted({layer.type for layer in found.layers if layer.type})
        raise QuantizeError(f"{SETTING}={gpu.name}: no peak for one of {', '.join(kinds)}")
    return time
