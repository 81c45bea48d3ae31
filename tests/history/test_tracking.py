"""export-mlflow: a run for each cell and night, each once."""

import sys
from pathlib import Path
from typing import Any

import pytest
from some_nights import kept, report

from pipeline.errors import HistoryError
from pipeline.history.keep.status import State
from pipeline.history.show.tracking import export_runs


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty store of files; needs the extra ``mlflow``, which ``dev`` leaves out."""
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return tracking.MlflowClient(tracking_uri=f"file:{tmp_path / 'runs'}")


@pytest.mark.filterwarnings("ignore")  # theirs
def test_each_cell_and_night_is_a_run_once(client: Any, tmp_path: Path) -> None:
    uri = f"file:{tmp_path / 'runs'}"
    published = kept(0, report({"onnxruntime": 3.0}))
    crashed = kept(0, None, precision="fp16", state=State.crashed)
    assert export_runs([published], uri=uri, experiment="nightly") == 1
    assert export_runs([published, crashed], uri=uri, experiment="nightly") == 1
    number = client.get_experiment_by_name("nightly").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([number])}
    assert set(found) == {"minilm-int8-cpu 2026-08-23 02:00", "minilm-fp16-cpu 2026-08-23 02:00"}
    run = found["minilm-int8-cpu 2026-08-23 02:00"]
    assert run.data.metrics["onnxruntime/speedup"] == 3.0
    assert "onnxruntime/gpu_memory_bytes" not in run.data.metrics
    assert run.data.metrics["stage/quantize"] == 24.7
    assert run.data.params["precision"] == "int8"
    assert run.data.tags["state"] == "published"
    assert (run.info.status, found["minilm-fp16-cpu 2026-08-23 02:00"].info.status) == (
        "FINISHED",
        "FAILED",
    )


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_cut_off_is_written_anew(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"file:{tmp_path / 'runs'}"
    entry = kept(0, report({"onnxruntime": 3.0}))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(client), "log_batch", die)
        with pytest.raises(KeyboardInterrupt):
            export_runs([entry], uri=uri, experiment="nightly")
    assert export_runs([entry], uri=uri, experiment="nightly") == 1
    number = client.get_experiment_by_name("nightly").experiment_id
    (run,) = client.search_runs([number])
    assert run.info.status == "FINISHED"


@pytest.mark.filterwarnings("ignore")
def test_a_store_that_cannot_be_reached_is_one_line(client: Any) -> None:
    with pytest.raises(HistoryError, match="MLflow at odd://store"):
        export_runs([kept(0, None, state=State.error)], uri="odd://store", experiment="n")


def test_without_mlflow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.exceptions", None)
    with pytest.raises(HistoryError, match=r"pip install 'sentence-transformer-trt\[mlflow\]'"):
        export_runs([], uri="file:x", experiment="n")
