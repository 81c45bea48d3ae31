"""Ranges of a bundle's vectors: a text has one int8 vector, whatever it is encoded with."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from bundles import list_again, manifest_of, publish_tiny, write_manifest

from pipeline.bundle.ranges import RANGES
from pipeline.contracts import OnnxModel, SourceModel, sha256_file
from pipeline.encode import main
from pipeline.errors import BundleError, MeasureError
from pipeline.runtime import load
from pipeline.stages.ranges import measure_ranges

TEXTS = [f"{'some ' * (i % 11)}words in text {i}" for i in range(60)]


@pytest.fixture(scope="module")
def bundle(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    root = tmp_path_factory.mktemp("ranges")
    return publish_tiny(tiny_source, tiny_fp32, root / "work", root / "tiny" / "fp32")


def test_the_stage_takes_them_from_pytorchs_vectors(
    tiny_source: SourceModel, calibration_texts: Sequence[str], tmp_path: Path
) -> None:
    from pipeline.config import Device
    from pipeline.engines.torch import TorchEncoder

    texts = list(calibration_texts)[:50]
    made = measure_ranges(tiny_source, texts, tmp_path / "out")
    vectors = TorchEncoder(tiny_source, device=Device.auto).encode_texts(texts, 7)
    values = np.load(made.path)
    assert (values.dtype, values.shape) == (np.float32, (2, 32))
    np.testing.assert_allclose(values[0], vectors.min(axis=0), atol=1e-6)
    np.testing.assert_allclose(values[1], vectors.max(axis=0), atol=1e-6)
    assert made.texts == 50
    assert made.sha256 == sha256_file(made.path)
    assert made.norm_min == pytest.approx(1, abs=1e-5)
    with pytest.raises(MeasureError, match="no calibration text"):
        measure_ranges(tiny_source, [], tmp_path / "none")


def test_a_text_has_one_vector_in_any_batch(bundle: Path, tmp_path: Path) -> None:
    encoder = load(bundle, "onnxruntime")
    together = encoder.encode(TEXTS, precision="int8")
    assert together.dtype == np.int8
    few = encoder.encode(TEXTS[:3], precision="int8")
    alone = np.stack([encoder.encode(text, precision="int8") for text in TEXTS[:3]])
    streamed = np.stack(list(encoder.encode_iter(TEXTS[:3], precision="int8")))
    for other in (few, alone, streamed):  # the last bit of a float may differ with its batch
        assert np.abs(other.astype(int) - together[:3].astype(int)).max() <= 1
    given = tmp_path / "texts.txt"
    given.write_text("\n".join(TEXTS) + "\n")
    options = ["--precision", "int8", "--engine", "onnxruntime"]
    assert main([str(bundle), str(given), str(tmp_path / "out.npy"), *options]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), together)


def test_they_are_those_of_the_manifest_and_can_be_replaced(bundle: Path) -> None:
    encoder = load(bundle, "onnxruntime")
    ranges = np.load(bundle / RANGES)
    said = manifest_of(bundle)
    assert said["embedding_ranges"]["file"] == RANGES
    assert RANGES in said["files"]
    own = encoder.encode(TEXTS, precision="uint8")
    np.testing.assert_array_equal(own, encoder.encode(TEXTS, precision="uint8", ranges=ranges))
    assert (own != encoder.encode(TEXTS, precision="uint8", ranges=2 * ranges)).any()
    cut = encoder.encode(TEXTS, precision="uint8", truncate_dim=20)
    np.testing.assert_array_equal(cut, own[:, :20])


def test_vectors_of_another_length_have_other_ranges(bundle: Path) -> None:
    encoder = load(bundle, "onnxruntime")
    same = encoder.encode(TEXTS, precision="int8", normalize_embeddings=True)
    apart = same.astype(int) - encoder.encode(TEXTS, precision="int8").astype(int)
    assert np.abs(apart).max() <= 1
    with pytest.raises(ValueError, match=r"give ranges, \[2, 20\], of vectors made in this way"):
        encoder.encode(TEXTS, precision="int8", truncate_dim=20, normalize_embeddings=True)


@pytest.mark.many
@pytest.mark.parametrize("change", ["bytes", "shape", "order"])
def test_a_file_that_is_not_the_one_published(
    change: str, tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    bundle = publish_tiny(tiny_source, tiny_fp32, tmp_path / "work", tmp_path / "tiny" / "fp32")
    path = bundle / RANGES
    values = np.load(path)
    np.save(path, {"bytes": values + 1, "shape": values[:, :5], "order": values[::-1]}[change])
    if change != "bytes":
        list_again(bundle, RANGES)
    message = "sha256" if change == "bytes" else "no ranges: "
    with pytest.raises(BundleError, match=message):
        load(bundle, "onnxruntime")


@pytest.mark.slow
def test_a_bundle_of_before_takes_the_texts_own(
    tiny_source: SourceModel, tiny_fp32: OnnxModel, tmp_path: Path
) -> None:
    bundle = publish_tiny(tiny_source, tiny_fp32, tmp_path / "work", tmp_path / "tiny" / "fp32")
    manifest = manifest_of(bundle)
    del manifest["embedding_ranges"]
    write_manifest(bundle, manifest)
    encoder = load(bundle, "onnxruntime")
    assert encoder.embedding_ranges is None
    floats = encoder.encode(TEXTS)
    ranges = np.stack((floats.min(axis=0), floats.max(axis=0)))
    expected = encoder.encode(TEXTS, precision="int8", ranges=ranges)
    apart = encoder.encode(TEXTS, precision="int8").astype(int) - expected.astype(int)
    assert np.abs(apart).max() <= 1
