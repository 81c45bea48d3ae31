"""Have an engine built for this machine, by another process, while ``model.onnx`` serves."""

import hashlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pipeline
from pipeline.bundle.engines import Parent, engine_directories
from pipeline.engines.gpu import find_gpu
from pipeline.errors import BundleError

log = logging.getLogger(__name__)

LOG = "build.log"


def engine_cache(parent: Parent, cache_dir: str | Path | None) -> Path:
    """Return where this machine's engines of a bundle are kept: by bundle, GPU and driver.

    The version of TensorRT is in an engine's name.
    """
    if cache_dir is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache_dir = base / "sentence-transformer-trt"
    gpu = find_gpu()
    machine = "no GPU" if gpu is None else f"{gpu.name}, {gpu.target}, driver {gpu.driver}"
    key = hashlib.sha256(machine.encode()).hexdigest()[:16]
    return Path(cache_dir).absolute() / "engines" / parent.manifest_sha256 / key


def start_build(parent: Parent, cache: Path, runtime: str, *, wait: bool) -> None:
    """Start a build into ``cache`` unless another process is at it; ``wait`` until there is one.

    The engine appears there by one rename. What the build says goes to ``build.log`` beside it.

    Raises:
        BundleError: ``cache`` cannot be written.
    """
    command = [
        *(sys.executable, "-m", "pipeline.build", str(parent.root), "--into", str(cache)),
        *("--runtime", runtime, "--manifest-sha256", parent.manifest_sha256, "--if-missing"),
        *(("--wait",) if wait else ()),
    ]
    paths = [str(Path(pipeline.__file__).parent.parent), os.environ.get("PYTHONPATH")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (cache / LOG).open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,  # a server's Ctrl-C is not meant for it
            )
    except OSError as error:
        raise BundleError(
            f"cannot build into {cache}: {error.strerror or error}; name a cache_dir that you may "
            "write"
        ) from error
    log.info("no engine fits this machine: building one into %s", cache)
    if not wait:
        threading.Thread(target=_report, args=(process, cache), daemon=True).start()
        return
    _report(process, cache)


def _report(process: "subprocess.Popen[bytes]", cache: Path) -> None:
    code = process.wait()
    if code:
        log.warning("no engine was built (exit code %d): see %s", code, cache / LOG)
    elif engine_directories(cache):
        log.info("%s holds an engine for the next load", cache)
    else:
        log.info("another process is building into %s", cache)
