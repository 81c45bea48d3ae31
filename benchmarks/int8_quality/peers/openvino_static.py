"""Static int8 for OpenVINO, as Sentence Transformers exports it through optimum-intel and NNCF.

Options: ``padded``. True is the library's own function, which pads every calibration text to 384
tokens and uses 128 of them; False makes the same call with all texts, unpadded.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer
from sentence_transformers import SentenceTransformer
from sentence_transformers.backend import export_static_quantized_openvino_model

from benchmarks.int8_quality.peers.job import Job, run


def quantize(job: Job) -> Path:
    """Quantize with the library's defaults; what is left in float is up to NNCF."""
    directory = Path(job.out) / "model"
    shutil.copytree(job.model, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    model = _load(job.model, export=True)
    if job.options["padded"]:
        export_static_quantized_openvino_model(
            model,
            None,
            str(directory),
            dataset_name=_write_dataset(job),
            dataset_config_name="default",
            dataset_split="train",
            column_name="sentence",
        )
    else:
        _quantize_unpadded(model, job, directory)
    return next(directory.rglob("*.xml"))


def embed(job: Job, path: Path) -> npt.NDArray[np.float32]:
    """Embed the evaluation texts with the library's own ``encode``; it sorts them by length."""
    model = _load(str(path.parent.parent), file_name=f"openvino/{path.name}")
    vectors: npt.NDArray[np.float32] = model.encode(job.evaluation, batch_size=32)
    return vectors


def _load(directory: str, **kwargs: Any) -> Any:
    model = SentenceTransformer(
        directory, backend="openvino", device="cpu", local_files_only=True, model_kwargs=kwargs
    )
    model.max_seq_length = 256
    return model


def _write_dataset(job: Job) -> str:
    directory = Path(job.out) / "calibration"
    directory.mkdir()
    lines = (json.dumps({"sentence": text}) + "\n" for text in job.calibration)
    (directory / "train.jsonl").write_text("".join(lines), "utf-8")
    return str(directory)


def _quantize_unpadded(model: Any, job: Job, directory: Path) -> None:
    rows = {
        "input_ids": job.calibration_ids,
        "attention_mask": [[1] * len(row) for row in job.calibration_ids],
        "token_type_ids": [[0] * len(row) for row in job.calibration_ids],
    }
    config = OVQuantizationConfig(num_samples=len(job.calibration_ids))
    OVQuantizer.from_pretrained(model.transformers_model).quantize(
        Dataset.from_dict(rows),
        save_directory=str(directory),
        ov_config=OVConfig(quantization_config=config),
    )


if __name__ == "__main__":
    run(quantize, ["optimum-intel", "nncf", "openvino", "sentence-transformers"], embed)
