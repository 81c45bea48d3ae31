"""Predictions: each kernel at its roofline, from a table of dense peaks."""

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from pipeline.contracts import Profile
from pipeline.engines.layers.predict import (
    LAUNCH_US,
    GpuPeaks,
    count_shapes,
    find_peaks,
    known_gpus,
    layer_us,
    predict_ms,
    predict_texts_ms,
)
from pipeline.engines.layers.records import EngineLayers, Kind, Layer, Size, Tensor
from pipeline.errors import ConfigError
from pipeline.text.tokens import TokenRow

GPU = GpuPeaks(
    name="x", label="X", source="none", url="", memory=100, tera_operations={"int8": 2, "fp16": 1}
)


def kernel(tokens: int, operations: int = 0, kind: str = "int8") -> Layer:
    """A kernel that reads ``tokens`` bytes a token, and computes so much for each."""
    read = Tensor(name="x", type="int8", dims=(-1, tokens), size=Size(factor=tokens, b=1, s=1))
    return Layer(
        name="k",
        kind=Kind.gemm if operations else Kind.move,
        profile=0,
        inputs=(read,),
        constants=(),
        outputs=(),
        nodes=(),
        type=kind if operations else None,
        operations=Size(factor=operations, b=1, s=1) if operations else None,
    )


def time_us(layers: Sequence[Layer]) -> float:
    time = predict_ms(layers, GPU, batch=10, sequence=100)
    assert time is not None
    return time * 1e3


def test_the_slower_of_the_two_peaks_counts_and_each_launch() -> None:
    moves = kernel(1000)  # 1 MB at 100 GB/s: 10 us
    assert time_us([moves]) == pytest.approx(10 + LAUNCH_US)
    computes = kernel(1000, operations=100_000)  # 100 M at 2 TOPS: 50 us
    assert time_us([computes]) == pytest.approx(50 + LAUNCH_US)
    assert time_us([kernel(1000, operations=100_000, kind="fp16")]) == pytest.approx(
        100 + LAUNCH_US
    )
    assert time_us([moves, computes]) == pytest.approx(60 + 2 * LAUNCH_US)
    assert time_us([kernel(1000, operations=10)]) == pytest.approx(10 + LAUNCH_US)


def test_a_type_without_a_peak_is_not_predicted() -> None:
    fp8 = kernel(1000, operations=10, kind="fp8")
    assert layer_us(fp8, GPU, batch=1, sequence=1) is None
    assert predict_ms([kernel(10), fp8], GPU, batch=1, sequence=1) is None


def test_texts_take_what_their_batches_take_each_in_its_profile() -> None:
    short, long = kernel(1000), replace(kernel(2000), profile=1)
    found = EngineLayers(
        runtime="tensorrt_rtx", runtime_version="1", layers=(short, long), attention=()
    )
    profiles = [
        Profile(min=(1, low), opt=(4, high), max=(4, high)) for low, high in ((1, 10), (11, 100))
    ]
    rows = [TokenRow(ids=(1,) * n, type_ids=(0,) * n) for n in (10, 10, 10, 10, 100)]
    shapes = count_shapes(rows, 4)
    assert shapes == {(4, 10): 1, (1, 100): 1}
    # 40 KB at 100 GB/s take 0.4 us, 200 KB 2 us; five texts
    expected = (0.4 + LAUNCH_US + 2 + LAUNCH_US) / 5
    assert predict_texts_ms(found, profiles, GPU, shapes) == pytest.approx(expected)
    assert predict_texts_ms(found, profiles[:1], GPU, shapes) is None
    unknown = replace(found, layers=(short, replace(kernel(1, 10, "fp8"), profile=1)))
    assert predict_texts_ms(unknown, profiles, GPU, shapes) is None


def test_the_table_has_the_gpus_that_people_use_with_dense_peaks_and_sources() -> None:
    gpus = known_gpus()
    labels = [gpu.label for gpu in gpus.values()]
    assert labels == ["T4", "A10", "L4", "RTX 4090", "RTX PRO 6000", "A100", "H100"]
    for gpu in gpus.values():
        peaks = gpu.tera_operations
        assert "NVIDIA" in gpu.source
        assert urlsplit(gpu.url).scheme == "https"
        assert (urlsplit(gpu.url).hostname or "").endswith(".nvidia.com")
        assert peaks["fp32"] < peaks["fp16"] < peaks["int8"]
        assert peaks["int8"] / peaks["fp16"] in (
            pytest.approx(2, rel=0.01),
            pytest.approx(4, rel=0.01),
        )
    assert gpus["h100"].tera_operations["fp16"] < 1000  # 1,979 is the sparse figure
    assert gpus["l4"].tera_operations["int8"] < 250  # 485 is


def test_an_unknown_gpu_names_the_setting_and_the_choices() -> None:
    message = r"precision\.engine_aware=l40: no such GPU; choose one of t4, a10, l4, rtx4090"
    with pytest.raises(ConfigError, match=message):
        find_peaks("l40", "precision.engine_aware")
