"""Stages: what runs them leaves nothing of theirs in memory."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import NumericType
from pipeline.contracts import OnnxModel
from pipeline.flow.store.stage_store import StageStore
from pipeline.flow.timed_stages import Stages


class Model:
    """Refers to itself, as a Sentence Transformer does by its model card."""

    def __init__(self) -> None:
        self.card = self


@pytest.fixture
def no_luck() -> Iterator[None]:
    """Let nothing be collected by chance."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_luck")
def test_a_stage_leaves_no_dead_model_behind(tmp_path: Path) -> None:
    models: list[weakref.ref[Model]] = []

    def make(out: Path) -> OnnxModel:
        models.append(weakref.ref(Model()))
        assert models[0]() is not None
        return OnnxModel(
            path=out / "model.onnx",
            sha256="",
            precision=NumericType.fp32,
            inputs=(),
            outputs=(),
            source_sha256="",
        )

    stages = Stages(StageStore(None), tmp_path, "minilm")
    stages.run("export", OnnxModel, {}, make)
    assert models[0]() is None
    assert gc.get_freeze_count() == 0


def test_a_stage_that_fails_leaves_the_collector_as_it_was(tmp_path: Path) -> None:
    def make(_out: Path) -> OnnxModel:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Stages(StageStore(None), tmp_path, "minilm").run("export", OnnxModel, {}, make)
    assert gc.get_freeze_count() == 0
