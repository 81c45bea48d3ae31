"""A bundle and the model it was made from, opened once for all sections."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.sides import GpuSide, open_sides
from benchmarks.gpu.speed import Work, work_of
from pipeline.config import DatasetConfig, DatasetFormat, Device, GridConfig, ModelConfig
from pipeline.contracts import SourceModel
from pipeline.engines.torch import TorchEncoder
from pipeline.errors import BundleError
from pipeline.measure.speed.grid import full_batch, grid_shapes
from pipeline.stages.resolve import resolve
from pipeline.text.datasets import load_dataset, spread
from pipeline.text.source_text import open_tokenizer
from pipeline.text.tokens import Tokenizer, TokenRow

QUICK_TEXTS = 24
QUICK_SHAPES = [(1, 16), (4, 32)]
CPU_GRID = GridConfig(batch=[1, 8, 32], sequence=[16, 64, 128])
"""A GPU has the product's own grid; larger batches tell nothing more of a CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every section works on; ``reasons`` are why the other sides take no part."""

    device: str
    manifest: Mapping[str, Any]
    tokenizer: Tokenizer
    texts: Sequence[str]
    rows: Sequence[TokenRow]
    sides: Mapping[str, GpuSide]
    reasons: Mapping[str, str]
    work: Work
    shapes: Sequence[tuple[int, int]]


def open_bench(bundle: Path, model: Path | None, scratch: Path, *, quick: bool) -> Bench:
    """Open every side that runs here on the bundled sample's evaluation text.

    Raises:
        BundleError: no bundle there, or the model found is not the one it was made from.
    """
    manifest, source = _find(bundle, model, scratch)
    sample = load_dataset(DatasetConfig(name="sample", format=DatasetFormat.sample))
    texts = spread(sample.evaluation, QUICK_TEXTS if quick else len(sample.evaluation))
    tokenizer = open_tokenizer(source)
    rows = tokenizer.rows(texts, source.prefix)
    reference = TorchEncoder(source, device=Device.auto)
    grid = GridConfig() if reference.device == "cuda" else CPU_GRID
    shapes = grid_shapes(grid.batch, grid.sequence, source.max_length)
    shapes = QUICK_SHAPES if quick else shapes
    largest = full_batch(rows, *max(shapes, key=lambda shape: shape[0] * shape[1]))
    sides, reasons = open_sides(bundle, manifest, source, reference, largest, quick=quick)
    return Bench(
        device=reference.device,
        manifest=manifest,
        tokenizer=tokenizer,
        texts=texts,
        rows=rows,
        sides=sides,
        reasons=reasons,
        work=work_of(reference.model),
        shapes=shapes,
    )


def _find(bundle: Path, model: Path | None, scratch: Path) -> tuple[dict[str, Any], SourceModel]:
    """Read the manifest and resolve the model it names, or the one in the directory given."""
    path = bundle / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}; publish a bundle with python -m pipeline") from error
    config = ModelConfig(**manifest["config"]["model"])
    if model is not None:
        config = replace(config, directory=str(model))
    source = resolve(config, scratch)
    expected = manifest["model"]["weights_sha256"]
    if source.sha256 != expected:
        raise BundleError(
            f"{source.path}: weights with sha256 {source.sha256}, the bundle was made from "
            f"{expected}; name its model with --model"
        )
    return manifest, source
