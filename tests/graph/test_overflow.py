"""fp16 that overflows on text which calibration did not see is caught, though on a CPU."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.contracts import OnnxModel, SourceModel
from pipeline.errors import CastError, MeasureError
from pipeline.graph.files import load_graph
from pipeline.graph.half import find_wide_tensors
from pipeline.graph.overflow import check_overflow
from pipeline.stages.cast import cast

Loud = tuple[SourceModel, OnnxModel]
QUIET, LOUD = ["a word", "another one, longer than that"], ["a loud word"]


@pytest.fixture(scope="module")
def loud(
    make_tiny: Callable[..., Path],
    resolve_dir: Callable[[Path], SourceModel],
    export_torch: Callable[[SourceModel], OnnxModel],
) -> Loud:
    """A model with one neuron that the word "loud" alone drives beyond fp16's range."""

    def plant(bert: Any) -> None:
        channel, embeddings, layer = 7, bert.embeddings, bert.encoder.layer[0]
        for table in (embeddings.word_embeddings, embeddings.position_embeddings):
            table.weight[:, channel] = 0.0
        embeddings.token_type_embeddings.weight[:, channel] = 0.0
        embeddings.word_embeddings.weight[5189, channel] = 50.0  # "loud" in BERT's vocabulary
        layer.attention.output.dense.weight[channel] = 0.0
        for module in (embeddings.LayerNorm, layer.attention.output.LayerNorm):
            module.bias[channel] = 0.0
        layer.attention.output.dense.bias[channel] = 0.0
        layer.intermediate.dense.weight[3, channel] = 16_000.0

    source = resolve_dir(make_tiny(plant))
    return source, export_torch(source)


@pytest.mark.slow
def test_what_calibration_did_not_see_is_caught_and_the_setting_that_helps_is_named(
    loud: Loud, tmp_path: Path
) -> None:
    source, fp32 = loud
    assert find_wide_tensors(load_graph(fp32), source, QUIET) == []
    half = cast(fp32, source, QUIET, tmp_path / "half")
    check_overflow(fp32, half, source, QUIET)
    with pytest.raises(MeasureError, match=r"fp16 overflows: \S+ reaches \d") as caught:
        check_overflow(fp32, half, source, LOUD)
    names = re.search(r"precision\.keep_fp32=\[([^\]]+)\]", str(caught.value))
    assert names is not None
    keep = [name.strip('"') for name in names[1].split(",")]
    kept = cast(fp32, source, QUIET, tmp_path / "kept", keep=keep)
    check_overflow(fp32, kept, source, LOUD)


@pytest.mark.slow
def test_a_name_that_no_tensor_has_is_refused(loud: Loud, tmp_path: Path) -> None:
    source, fp32 = loud
    with pytest.raises(CastError, match=r"precision\.keep_fp32: no tensor .* '\*mlpp\*'"):
        cast(fp32, source, QUIET, tmp_path / "half", keep=["*mlpp*"])


@pytest.mark.slow
def test_fp32_has_nothing_to_overflow(loud: Loud) -> None:
    source, fp32 = loud
    check_overflow(fp32, fp32, source, LOUD)
