"""Run cells as Kubernetes Jobs: an Indexed Job for each device, for ``kubectl apply``."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.errors import ConfigError, NightlyError
from pipeline.files import write_text
from pipeline.nightly.cells.matrix import Cell
from pipeline.nightly.config import NightlyConfig
from pipeline.nightly.launchers.shared import wait_for_cells
from pipeline.nightly.night import Night
from pipeline.nightly.stop import Stop

log = logging.getLogger(__name__)

_POLL_S = 5.0


def run_kubernetes(
    night: Night,
    cells: Sequence[Cell],
    config: NightlyConfig,
    stopping: Stop,
    refresh: Callable[[], None],
) -> dict[str, str] | None:
    """Write the cells' Jobs; wait for the cells, or return None where it is not to wait.

    Otherwise returns why a cell has no final status, by its name.

    Raises:
        ConfigError: output is not on the volume that the pods mount.
        NightlyError: the manifests cannot be written.
    """
    if not night.directory.is_relative_to(config.kubernetes.mount):
        raise ConfigError(
            f"output={config.output} is not below kubernetes.mount={config.kubernetes.mount}, the "
            "volume that this machine and the pods see at the same path"
        )
    _write(night, "kubernetes.yaml", [cell for cell in cells if not cell.builds], config)
    _write(night, "kubernetes-engines.yaml", [cell for cell in cells if cell.builds], config)
    if config.kubernetes.wait_s is None:
        return None
    deadline = time.monotonic() + config.kubernetes.wait_s
    words = f"no status after kubernetes.wait_s={config.kubernetes.wait_s:g} s"
    return wait_for_cells(
        night,
        cells,
        stopping,
        refresh,
        lambda _: words if time.monotonic() >= deadline else None,
        poll_s=min(_POLL_S, config.kubernetes.wait_s),
        settle_s=0,
    )


def _write(night: Night, name: str, cells: Sequence[Cell], config: NightlyConfig) -> None:
    """Write the Jobs of some cells and say how to start them: Kubernetes puts none in order."""
    if not cells:
        return
    manifest = night.directory / name
    try:
        write_text(manifest, render_jobs(night, cells, config))
    except OSError as error:
        raise NightlyError(f"cannot write {manifest}: {error.strerror or error}") from error
    after = any(cell.after for cell in cells)
    when = "once those have ended, the ones that build from them" if after else "start the cells"
    log.info("%s by: kubectl apply -f %s", when, manifest)


def render_jobs(night: Night, cells: Sequence[Cell], config: NightlyConfig) -> str:
    """Return the YAML of one Job for each device; writes the list of its cells beside it."""
    texts = []
    for device, group in groupby(cells, key=lambda cell: cell.device):
        of_device = tuple(group)
        listed = night.directory / f"kubernetes-{device}.txt"
        write_text(listed, "".join(f"{night.of(cell)}\n" for cell in of_device))
        job = _job(night, device, listed, of_device, config)
        texts.append(OmegaConf.to_yaml(OmegaConf.create(job)))
    return "---\n".join(texts)


def _job(
    night: Night, device: str, listed: Path, cells: Sequence[Cell], config: NightlyConfig
) -> dict[str, Any]:
    """Return a batch/v1 Job.

    An evicted pod's index is tried once more; one with a final status returns at once, so that a
    cell that failed is not run again (https://kubernetes.io/docs/concepts/workloads/controllers/job).
    """
    wanted, common = config.hardware[device].kubernetes, config.kubernetes
    labels = {"app.kubernetes.io/name": "nightly", "night": night.id, "device": device}
    longest = max(math.ceil(cell.timeout_s + 4 * cell.grace_s) for cell in cells) + 120
    container = {
        "name": "cell",
        "image": common.image,
        "command": ["python", "-m", "pipeline.nightly.cells.cell", "--list", str(listed)],
        "workingDir": common.mount,
        "resources": {"limits": dict(wanted.resources)},
        "volumeMounts": [{"name": "shared", "mountPath": common.mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": longest,
        "terminationGracePeriodSeconds": math.ceil(2 * config.grace_s) + 10,
        "nodeSelector": dict(wanted.node_selector),
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": common.claim}}],
    }
    where = {} if common.namespace is None else {"namespace": common.namespace}
    name = f"nightly-{night.id}-{device}".lower().replace("_", "-").replace(".", "-")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, **where, "labels": labels},
        "spec": {
            "completionMode": "Indexed",
            "completions": len(cells),
            "parallelism": min(wanted.at_once, len(cells)),
            "backoffLimitPerIndex": 1,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
