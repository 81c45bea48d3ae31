"""Predict how long a plan would take on a GPU, from its kernels; nothing of it is measured.

Each kernel takes as long as the slower of two peaks lets it: the memory's for the bytes that it
reads and writes, its type's for its matrix products (the roofline model, Williams, Waterman and
Patterson 2009), plus the launch. No kernel reaches both peaks and caches spare some bytes, so times
are a scale to compare plans on, not what a clock will show.
"""

import functools
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.contracts import Profile
from pipeline.engines.layers.records import EngineLayers, Layer
from pipeline.errors import ConfigError
from pipeline.text.tokens import TokenRow, by_length

LAUNCH_US = 2.0
"""What a kernel adds before it does anything, replayed from a CUDA graph: an assumption, the same
for every GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPeaks:
    """Data sheet peaks: memory in GB/s, matrix products of each type in TFLOPS or TOPS."""

    name: str
    label: str
    source: str
    url: str
    memory: float
    tera_operations: Mapping[str, float]


@functools.cache
def known_gpus() -> Mapping[str, GpuPeaks]:
    """Return the GPUs of ``gpus.toml`` by the names that settings use."""
    table = tomllib.loads(Path(__file__).with_name("gpus.toml").read_text("utf-8"))
    return {
        name: GpuPeaks(
            name=name,
            label=row.pop("label"),
            source=row.pop("source"),
            url=row.pop("url"),
            memory=row.pop("memory"),
            tera_operations=row,
        )
        for name, row in table.items()
    }


def find_peaks(name: str, setting: str) -> GpuPeaks:
    """Return the peaks of a GPU that a setting names.

    Raises:
        ConfigError: none of that name is known.
    """
    gpus = known_gpus()
    if name not in gpus:
        raise ConfigError(f"{setting}={name}: no such GPU; choose one of {', '.join(gpus)}")
    return gpus[name]


def predict_ms(
    layers: Sequence[Layer], gpu: GpuPeaks, *, batch: int, sequence: int
) -> float | None:
    """Return milliseconds for a batch, None where the GPU has no peak for a type that it needs."""
    times = [layer_us(layer, gpu, batch=batch, sequence=sequence) for layer in layers]
    if any(time is None for time in times):
        return None
    return sum(time for time in times if time is not None) / 1e3


def count_shapes(rows: Sequence[TokenRow], batch: int) -> Counter[tuple[int, int]]:
    """Count the batches of a text by batch and sequence, each padded to its longest row."""
    return Counter(
        (len(group), max(len(rows[i].ids) for i in group)) for group in by_length(rows, batch)
    )


def find_profile(profiles: Sequence[Profile], batch: int, sequence: int) -> int | None:
    """Return the optimization profile that a batch of this shape runs in, if there is one."""
    for index, profile in enumerate(profiles):
        (low, short), (high, long) = profile.min, profile.max
        if low <= batch <= high and short <= sequence <= long:
            return index
    return None


def predict_texts_ms(
    found: EngineLayers,
    profiles: Sequence[Profile],
    gpu: GpuPeaks,
    shapes: Mapping[tuple[int, int], int],
) -> float | None:
    """Return milliseconds for a thousand texts in batches of these shapes.

    None where no profile takes one of them, or the GPU has no peak for a type that it needs.
    """
    total, texts = 0.0, 0
    for (batch, sequence), count in shapes.items():
        profile = find_profile(profiles, batch, sequence)
        if profile is None:
            return None
        time = predict_ms(found.of_profile(profile), gpu, batch=batch, sequence=sequence)
        if time is None:
            return None
        total, texts = total + count * time, texts + count * batch
    return 1e3 * total / texts


def layer_us(layer: Layer, gpu: GpuPeaks, *, batch: int, sequence: int) -> float | None:
    """Return the microseconds of one kernel: the slower of its two peaks, and its launch."""
    moving = layer.bytes_at(batch, sequence) / (gpu.memory * 1e3)
    operations = layer.operations_at(batch, sequence)
    if not operations:
        return moving + LAUNCH_US
    peak = gpu.tera_operations.get(layer.type or "")
    if peak is None:
        return None
    return max(moving, operations / (peak * 1e6)) + LAUNCH_US
