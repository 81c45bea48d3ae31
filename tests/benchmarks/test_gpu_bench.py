"""benchmarks.gpu: a quick run on whatever is here, its schema, the roofline's arithmetic."""

import copy
import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import command_line
import pytest
import torch

from benchmarks.gpu.__main__ import run
from benchmarks.gpu.ceilings import KINDS
from benchmarks.gpu.graphs import bound_on_and_off
from benchmarks.gpu.roofline import PEAKS, SIZES, Peaks, target, token_bytes, token_flops
from benchmarks.gpu.schema import SECTIONS, problems
from benchmarks.gpu.sides import ENGINES, REFERENCE, TORCH
from benchmarks.gpu.speed import work_of
from benchmarks.gpu.tokenizing import measure_padding, measure_tokenization
from pipeline.config import Device
from pipeline.contracts import SourceModel
from pipeline.engines.gpu import find_gpu
from pipeline.engines.torch import TorchEncoder, load_sentence_transformer
from pipeline.engines.torch_graphs import without_mask_check
from pipeline.errors import BundleError
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow

PER_SIDE = ("sides", "agreement", "latency_ms", "throughput", "grid", "cuda_graphs", "memory")


@pytest.fixture(scope="module")
def bundle(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in fp32, without engines."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    arguments = [*command_line.settings(tiny_dir), f"artifacts_dir={artifacts}"]
    return command_line.run_here(*arguments, "precision=fp32", "engine=onnxruntime")


@pytest.fixture(scope="module")
def result(bundle: Path) -> dict[str, Any]:
    """A quick run, as it is read back from its file."""
    found: dict[str, Any] = json.loads(json.dumps(run(bundle, None, quick=True)))
    return found


def test_result_is_as_documented(result: dict[str, Any]) -> None:
    assert problems(result) == []
    assert set(result["sections"]) == set(SECTIONS)
    assert result["bundle"]["precision"] == "fp32"


def test_every_side_is_in_every_section(result: dict[str, Any]) -> None:
    for section in PER_SIDE:
        expected = {REFERENCE, *TORCH, *ENGINES} - (
            {REFERENCE} if section == "agreement" else set()
        )
        assert set(result["sections"][section]) == expected, section


def test_numbers_that_are_there(result: dict[str, Any]) -> None:
    sections = result["sections"]
    assert sections["agreement"]["onnxruntime"]["min"] > 0.99999
    assert 0.9 < sections["agreement"]["torch_bf16"]["mean"] < 1
    assert sections["throughput"][REFERENCE]["speedup"]["median"] == 1
    for cell in sections["grid"]["onnxruntime"]:
        tokens = cell["batch"] * cell["sequence"]
        assert cell["tokens_per_second"] == pytest.approx(tokens / cell["ms"] * 1e3)
        ceiling = sections["ceilings"]["fp32"]["tflops"]
        assert cell["of_ceiling"] == pytest.approx(cell["tflops"] / ceiling)


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU")
def test_gpu_parts_say_why_not(result: dict[str, Any]) -> None:
    sections = result["sections"]
    assert result["device"] == "cpu"
    assert "no CUDA device" in sections["sides"]["torch_tf32"]["skipped"]
    assert "no CUDA device" in sections["ceilings"]["launch"]["skipped"]
    assert "holds no such engine" in sections["sides"]["tensorrt"]["skipped"]
    for section in ("cuda_graphs", "memory"):
        assert all("skipped" in side for side in sections[section].values())
    assert "skipped" in sections["clocks"]


@pytest.mark.gpu
def test_gpu_parts_hold_numbers(result: dict[str, Any]) -> None:
    sections = result["sections"]
    assert result["device"] == "cuda"
    assert all("skipped" not in sections["ceilings"][kind] for kind in KINDS)
    for side in ("torch_fp32", "torch_fp16"):
        assert all("skipped" not in cell for cell in sections["cuda_graphs"][side])
    assert sections["memory"]["torch_fp16"]["used_bytes"] > 0


def test_onnx_runtimes_own_graphs_are_timed_host_to_host() -> None:
    """Both ways run the same batch; a session that captures none has no second time."""

    class Bound:
        graphs = 0
        captures = True

        def __init__(self) -> None:
            self.asked: list[bool] = []

        def encode(self, batch: TokenBatch, *, graph: bool = True) -> None:
            assert batch.input_ids.shape == (2, 16)
            self.asked.append(graph)
            self.graphs = int(graph and self.captures)

    bound: Any = Bound()
    cell = bound_on_and_off(bound, (2, 16))
    assert cell["off_ms"] > 0 < cell["on_ms"]
    assert set(bound.asked) == {False, True}
    bound.captures = False
    with pytest.raises(RuntimeError, match="captures no graph"):
        bound_on_and_off(bound, (2, 16))


@pytest.mark.parametrize("before", [None, "false"])
def test_tokenizers_setting_is_as_before(
    before: str | None, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "TOKENIZERS_PARALLELISM"
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    found = measure_tokenization(tiny_tokenizer, ["a text", "b"], batch_size=2, quick=True)
    assert os.environ.get(name) == before
    rate = found["one_core"]
    assert rate["tokens_per_second"] == pytest.approx(3.5 * rate["texts_per_second"])


def test_what_the_schema_finds(result: dict[str, Any]) -> None:
    broken = copy.deepcopy(result)
    sections = broken["sections"]
    del sections["padding"]
    sections["ceilings"]["copy"] = {"gb_per_second": "fast", "bytes": 1}
    sections["sides"]["tensorrt"] = {"skipped": ""}
    sections["grid"]["onnxruntime"] = []
    sections["latency_ms"]["onnxruntime"]["n"] = True
    sections["more"] = {}
    broken["schema"] = 2
    assert problems(broken) == [
        "sections.padding: missing",
        "sections.ceilings.copy.gb_per_second: str 'fast'",
        "sections.sides.tensorrt.skipped: no reason",
        "sections.latency_ms.onnxruntime.n: bool True",
        "sections.grid.onnxruntime: expected a list of at least one",
        "schema: 2, expected 1",
        "sections.more: not in the schema",
    ]


def test_only_what_was_asked_for(bundle: Path) -> None:
    found = run(bundle, None, quick=True, only=["padding"])
    assert problems(found) == []
    assert "32" in found["sections"]["padding"]
    assert found["sections"]["grid"] == {"skipped": "not in --only"}


def test_another_model(bundle: Path, minilm_dir: Path) -> None:
    with pytest.raises(BundleError, match=r"the bundle was made from .*--model"):
        run(bundle, minilm_dir, quick=True)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json.*python -m pipeline"):
        run(tmp_path, None, quick=True)


def test_padding() -> None:
    rows = [TokenRow(ids=(1,) * n, type_ids=(0,) * n) for n in (1, 8, 1, 8)]
    assert measure_padding(rows, [2]) == {"2": {"by_length": 0.0, "in_order": 1 - 18 / 32}}


# The roofline.


def test_sizes_are_those_of_the_models(minilm_dir: Path) -> None:
    model = load_sentence_transformer(minilm_dir, device="cpu", trust_remote_code=False)
    size, work = SIZES["all-MiniLM-L6-v2"], work_of(model)
    assert work.linear_weights == size.linear_weights
    assert (work.layers, work.hidden) == (size.layers, size.hidden)
    linear, attention = token_flops(size.linear_weights, size.layers, size.hidden, 128)
    assert linear == 2 * 10_616_832
    assert attention == 6 * 2 * 2 * 384 * 128  # scores and their product with values
    assert work.tflops(1e6, 128) == pytest.approx((linear + attention) / 1e6)


def test_targets() -> None:
    size = SIZES["all-MiniLM-L6-v2"]
    flops = sum(token_flops(size.linear_weights, size.layers, size.hidden, 128))
    tokens, limit = target(size, Peaks(fp16=1, int8=2, memory=1e9), "fp16", 128)
    assert tokens == pytest.approx(1e12 / flops)
    assert limit == "compute"
    tokens, limit = target(size, Peaks(fp16=1e9, int8=1e9, memory=1), "int8", 128)
    assert tokens == pytest.approx(1e9 / token_bytes(size, "int8"))
    assert limit == "memory"
    assert token_bytes(size, "int8") < token_bytes(size, "fp16") == 6 * 2 * (18 * 384 + 2 * 1536)
    for peaks in PEAKS.values():
        assert target(size, peaks, "int8", 128)[0] > target(size, peaks, "fp16", 128)[0]


def test_masks_are_not_looked_at(tiny_source: SourceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA graph's capture forbids: a tensor's value decides what runs."""
    if metadata.version("transformers") >= "5":
        pytest.skip("transformers 5 itself leaves the mask alone while a stream is captured")
    encoder = TorchEncoder(tiny_source, device=Device.cpu)
    ones = torch.ones((2, 8), dtype=torch.int64)
    features = dict.fromkeys(encoder.inputs, ones)
    looked: list[Any] = []
    check = torch.all

    def look(*arguments: Any, **named: Any) -> Any:
        looked.append(arguments)
        return check(*arguments, **named)

    monkeypatch.setattr(torch, "all", look)
    with torch.inference_mode():
        usual = encoder.model(dict(features))["sentence_embedding"]
        seen = len(looked)
        with without_mask_check():
            captured = encoder.model(dict(features))["sentence_embedding"]
    assert seen > 0
    assert len(looked) == seen
    torch.testing.assert_close(usual, captured)
