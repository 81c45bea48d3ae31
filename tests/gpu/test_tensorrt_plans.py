"""Plans on a real GPU: built, loaded, run in every profile, replayed as CUDA graphs, refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest

from pipeline.bundle.engines import open_parent, read_engines
from pipeline.config import EngineChoice, EngineConfig
from pipeline.contracts import Engine, Graphs, OnnxModel, SourceModel
from pipeline.engines import Encoder
from pipeline.engines.gpu import Gpu, find_gpu, is_installed
from pipeline.engines.onnxruntime import OnnxRuntimeEncoder
from pipeline.engines.tensorrt import TensorRTEncoder, rtx_obstacle
from pipeline.errors import BundleError, MeasureError
from pipeline.measure.speed.grid import full_batch
from pipeline.runtime import load
from pipeline.stages.build import build, make_profiles
from pipeline.stages.cast import cast
from pipeline.text.tokens import TokenBatch, Tokenizer, TokenRow
from pipeline.vectors import row_cosines

pytestmark = pytest.mark.gpu

MAX_LENGTH, MAX_BATCH = 48, 16
LOWEST = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.999}
"""Against ONNX Runtime on the CPU, which runs the same graph."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An engine, opened, and what runs the same graph on the CPU."""

    engine: Engine
    encoder: TensorRTEncoder
    expected: Encoder


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt_rtx"])
def runtime(request: pytest.FixtureRequest) -> str:
    """A runtime that builds for this GPU and runs on it."""
    name: str = request.param
    gpu = find_gpu()
    assert gpu is not None
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    if name == "tensorrt_rtx" and (reason := rtx_obstacle(gpu)) is not None:
        pytest.skip(reason)
    return name


@pytest.fixture(scope="module")
def plans(
    runtime: str,
    tiny_source: SourceModel,
    tiny_fp32: OnnxModel,
    tiny_int8: Graphs,
    calibration_texts: Sequence[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Plan]:
    """The tiny model's plans by precision, with two profiles each."""
    out = tmp_path_factory.mktemp(runtime)
    fp16 = cast(tiny_fp32, tiny_source, calibration_texts, out / "cast")
    config = EngineConfig(runtime=EngineChoice.auto, opt_batch=4, max_batch=MAX_BATCH)
    profiles = make_profiles(config, max_length=MAX_LENGTH)
    found = {}
    for name, graph in (("fp32", tiny_fp32), ("fp16", fp16), ("int8", tiny_int8.buildable)):
        engine = build(graph, runtime, profiles, config, out / "cache", out / name / "engines")
        found[name] = Plan(
            engine=engine,
            encoder=TensorRTEncoder(engine.path, runtime),
            expected=OnnxRuntimeEncoder(graph.path),
        )
    return found


@pytest.fixture(scope="module")
def rows(tiny_tokenizer: Tokenizer, evaluation_texts: Sequence[str]) -> Sequence[TokenRow]:
    """Real tokens to fill batches with."""
    return tiny_tokenizer.rows(evaluation_texts)


@pytest.mark.parametrize("precision", LOWEST)
def test_every_profile_at_its_ends(
    precision: str, plans: Mapping[str, Plan], rows: Sequence[TokenRow]
) -> None:
    plan = plans[precision]
    for profile in plan.engine.profiles:
        for shape in (profile.min, profile.opt, profile.max):
            batch = full_batch(rows, *shape)
            seen, expected = plan.encoder.encode(batch), plan.expected.encode(batch)
            assert seen.shape == expected.shape
            assert row_cosines(expected, seen).min() > LOWEST[precision], shape


@pytest.mark.parametrize("precision", LOWEST)
def test_padded_text_in_more_rows_than_a_profile_takes(
    precision: str, plans: Mapping[str, Plan], evaluation_batch: TokenBatch
) -> None:
    assert len(evaluation_batch.input_ids) > MAX_BATCH
    plan = plans[precision]
    seen, expected = plan.encoder.encode(evaluation_batch), plan.expected.encode(evaluation_batch)
    assert row_cosines(expected, seen).min() > LOWEST[precision]


def test_length_beyond_every_profile(plans: Mapping[str, Plan], rows: Sequence[TokenRow]) -> None:
    with pytest.raises(MeasureError, match="no optimization profile takes 49 tokens"):
        plans["fp32"].encoder.encode(full_batch(rows, 1, MAX_LENGTH + 1))


def test_threads_share_an_encoder(plans: Mapping[str, Plan], rows: Sequence[TokenRow]) -> None:
    encoder = plans["fp32"].encoder
    batches = [full_batch(rows, 1 + n % 5, n) for n in range(1, MAX_LENGTH + 1)]
    alone = [encoder.encode(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for seen, expected in zip(pool.map(encoder.encode, batches * 3), alone * 3, strict=True):
            np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_two_contexts_in_two_threads(plans: Mapping[str, Plan], rows: Sequence[TokenRow]) -> None:
    plan = plans["fp32"]
    encoders = [plan.encoder, TensorRTEncoder(plan.engine.path, plan.engine.runtime)]
    batches = [full_batch(rows, MAX_BATCH, n) for n in range(1, MAX_LENGTH + 1)]
    expected = [plan.encoder.encode(batch) for batch in batches]

    def run(encoder: TensorRTEncoder) -> list[Any]:
        return [encoder.encode(batch) for batch in batches * 5]

    with ThreadPoolExecutor(2) as pool:
        for seen in pool.map(run, encoders):
            np.testing.assert_allclose(seen[0], expected[0], atol=1e-6)
            for one, other in zip(seen, expected * 5, strict=True):
                np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("precision", LOWEST)
def test_cuda_graph_replay(
    precision: str, plans: Mapping[str, Plan], rows: Sequence[TokenRow]
) -> None:
    """The encoder's own graphs, of every profile: captured by a shape's second run, replayed."""
    plan = plans[precision]
    encoder = TensorRTEncoder(plan.engine.path, plan.engine.runtime)
    shapes = [(1, 8), (4, 24), (MAX_BATCH, MAX_LENGTH)]
    once = [encoder.encode(full_batch(rows, *shape)) for shape in shapes]
    assert encoder.graphs == 0
    for _ in range(2):
        for shape, expected in zip(shapes, once, strict=True):
            np.testing.assert_allclose(
                encoder.encode(full_batch(rows, *shape)), expected, atol=1e-5
            )
    if encoder.name == "tensorrt_rtx" and encoder.graphs < len(shapes):
        pytest.skip("TensorRT-RTX says that these contexts cannot be captured")
    assert encoder.graphs == len(shapes)
    for shape in shapes:  # other text at the same addresses
        batch = full_batch(rows[3:], *shape)
        seen, expected = encoder.encode(batch), plan.expected.encode(batch)
        assert row_cosines(expected, seen).min() > LOWEST[precision], shape


def test_a_plan_runs_where_pytorch_cannot_be_imported(plans: Mapping[str, Plan]) -> None:
    engine = plans["fp32"].engine
    code = """
import sys
from pathlib import Path
import numpy as np
sys.modules["torch"] = None
from pipeline.engines.tensorrt import TensorRTEncoder
from pipeline.text.tokens import TokenBatch
ids = np.ones((2, 8), np.int64)
batch = TokenBatch(input_ids=ids, attention_mask=ids, token_type_ids=ids * 0)
encoder = TensorRTEncoder(Path(sys.argv[1]), sys.argv[2])
assert all(np.isfinite(encoder.encode(batch)).all() for _ in range(3))
"""
    command = [sys.executable, "-c", code, str(engine.path), engine.runtime]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_truncated_plan(plans: Mapping[str, Plan], tmp_path: Path) -> None:
    engine = plans["fp32"].engine
    content = engine.path.read_bytes()
    path = tmp_path / "half.plan"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(MeasureError, match=rf"{engine.runtime} cannot load .*half\.plan: \w+"):
        TensorRTEncoder(path, engine.runtime)


@pytest.fixture(scope="module")
def bundle(runtime: str, tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in fp32, with a plan, published as users do."""
    artifacts = tmp_path_factory.mktemp("bundle")
    return command_line.run_here(
        *command_line.settings(tiny_dir),
        f"artifacts_dir={artifacts}",
        "precision=fp32",
        f"engine={runtime}",
    )


def test_bundle_runs_its_plan(bundle: Path, runtime: str) -> None:
    encoder, expected = load(bundle), load(bundle, "onnxruntime")
    assert encoder.engine.name == runtime
    texts = ["a sentence", "another, a little longer", "word " * 100]
    assert row_cosines(expected.encode(texts), encoder.encode(texts)).min() > LOWEST["fp32"]
    report = json.loads((bundle / "report.json").read_text("utf-8"))
    (entry,) = (a for a in report["artifacts"] if a["name"] == runtime)
    assert entry["executed"]


def of_another_version(plan: dict[str, Any], _gpu: Gpu) -> None:
    plan["runtime_version"] = "1.0.0"


def of_another_target(plan: dict[str, Any], gpu: Gpu) -> None:
    plan["target"] = "sm_89" if gpu.target != "sm_89" else "sm_90"


@pytest.mark.parametrize(
    ("change", "reason"), [(of_another_version, "built with"), (of_another_target, "built for")]
)
def test_foreign_plan_is_refused(
    bundle: Path,
    runtime: str,
    tmp_path: Path,
    change: Callable[[dict[str, Any], Gpu], None],
    reason: str,
) -> None:
    if change is of_another_target and runtime == "tensorrt_rtx":
        pytest.skip("TensorRT-RTX plans are for many GPUs")
    gpu = find_gpu()
    assert gpu is not None
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (engine,) = (e for e in read_engines(open_parent(copy)) if e.runtime == runtime)
    manifest = json.loads((engine.root / "manifest.json").read_text("utf-8"))
    change(manifest, gpu)
    (engine.root / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    name = f"{runtime}-{manifest['runtime_version']}-{manifest['target']}"
    engine.root.rename(engine.root.with_name(name))
    with pytest.raises(BundleError, match=reason):
        load(copy, runtime)
    assert load(copy).engine.name not in ("tensorrt", "tensorrt_rtx")
