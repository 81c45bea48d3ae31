"""Export entries as MLflow runs, one for each cell and night (extra: mlflow)."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from pipeline.errors import HistoryError
from pipeline.history.keep.records import Entry

KEY = "history.key"
"""The tag that names a run's cell and night, so that none is added twice."""

_STATUS = {"published": "FINISHED"}
_PAGE = 1000


def export_runs(entries: Sequence[Entry], *, uri: str, experiment: str) -> int:
    """Add a run for each entry that the experiment does not have yet, and return how many.

    Figures are metrics named ``artifact/metric``; those that were not measured are left out. A run
    that another call left half written is removed and written anew.

    Raises:
        HistoryError: MLflow is not installed, or its store refuses.
    """
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise HistoryError(
            "mlflow is not installed: pip install 'sentence-transformer-trt[mlflow]'"
        ) from error
    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else client.create_experiment(experiment)
        there = _present(client, number)
        missing = [entry for entry in entries if _key(entry) not in there]
        for entry in missing:
            _add(client, number, entry)
    except (MlflowException, OSError) as error:
        words = " ".join(str(error).split())[:300]
        raise HistoryError(f"MLflow at {uri}: {words}; see --tracking-uri") from error
    return len(missing)


def _present(client: Any, experiment: str) -> set[str]:
    """Return the keys of complete runs; runs that were cut off are removed."""
    keys, token = set(), None
    while True:
        page = client.search_runs([experiment], max_results=_PAGE, page_token=token)
        for run in page:
            if run.info.status == "RUNNING" and KEY in run.data.tags:
                client.delete_run(run.info.run_id)
            else:
                keys.add(run.data.tags.get(KEY, ""))
        token = page.token
        if not token:
            return keys


def _add(client: Any, experiment: str, entry: Entry) -> None:
    from mlflow.entities import Metric, Param, RunTag

    start = int(datetime.fromisoformat(entry.night).timestamp() * 1000)
    name = f"{entry.cell} {entry.night[:16].replace('T', ' ')}"
    run = client.create_run(experiment, start_time=start, run_name=name, tags={KEY: _key(entry)})
    number = run.info.run_id
    values = list(_metrics(entry))
    params = ("model", "precision", "device", "config_sha256")
    tags = {"night": entry.night, "state": entry.state, "machine": entry.machine or ""}
    client.log_batch(
        number,
        metrics=[Metric(name, value, start, 0) for name, value in values],
        params=[Param(p, str(v)) for p in params if (v := getattr(entry, p)) is not None],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    status = _STATUS.get(entry.state, "FAILED")
    client.set_terminated(number, status=status, end_time=start + int(1000 * entry.seconds))


def _metrics(entry: Entry) -> Iterator[tuple[str, float]]:
    for artifact in entry.artifacts:
        for metric, figure in artifact.figures.items():
            if figure is not None:
                yield f"{artifact.name}/{metric}", figure.value
    for stage, seconds in entry.stages:
        yield f"stage/{stage}", seconds


def _key(entry: Entry) -> str:
    return f"{entry.cell} {entry.night}"
