"""Open the published bundle that a run would replace, and time it beside the new one."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.engines import Encoder
from pipeline.runtime import load
from pipeline.text.tokens import TokenBatch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """One artifact of it: mean cosine, main metric of each task by (task, metric), engine."""

    cosine_mean: float
    tasks: Mapping[tuple[str, str], float]
    encoder: Encoder


def open_predecessors(
    bundle: Path, names: Sequence[str], dataset_sha256: str, trial: TokenBatch
) -> dict[str, Predecessor]:
    """Return the artifacts of a published bundle among ``names``, each tried on a batch.

    None at all where nothing is published there, or it was measured on other text. A damaged or
    older bundle is a line in the log and never an error: the run is about to replace it.
    """
    path = bundle / "report.json"
    try:
        report = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("not compared with the published bundle: %s: %s", path, error)
        return {}
    if not isinstance(report, dict) or report.get("dataset_sha256") != dataset_sha256:
        log.info("not compared with the published bundle: it was measured on other text")
        return {}
    found = {}
    for name in names:
        try:
            found[name] = _open(bundle, report, name, trial)
        except Exception as error:  # whatever an older version wrote or an old file makes of it
            log.warning(
                "%s: not compared with the published bundle: %s: %s",
                name,
                type(error).__name__,
                " ".join(str(error).split())[:200],
            )
    return found


def _open(bundle: Path, report: Mapping[str, Any], name: str, trial: TokenBatch) -> Predecessor:
    """Read an artifact's figures and open it.

    Raises:
        Exception: of any type; the report and the files were written by another version.
    """
    entry = next((a for a in report["artifacts"] if a["name"] == name and a["executed"]), None)
    if entry is None:
        raise LookupError("it was not executed then")
    encoder = load(bundle, engine=name).engine
    vectors = encoder.encode(trial)
    if len(vectors) != len(trial.input_ids) or not np.isfinite(vectors).all():
        raise ValueError("it returns something else than vectors")
    return Predecessor(
        cosine_mean=float(entry["agreement"]["cosine"]["mean"]),
        tasks={
            (task, value["metric"]): float(value["artifact"])
            for task, value in entry["tasks"].items()
        },
        encoder=encoder,
    )
