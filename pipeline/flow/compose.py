"""Compose a config with Hydra, run a command with it, and turn every error into one line.

Exit codes: 0 published; 1 an error, one line on stderr; 2 a quality gate failed; 128 + a
signal that ended it.
"""

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config import CONF_DIR, PipelineConfig, register_schema
from pipeline.ending import INTERRUPTED, output_is_gone, run_to_end
from pipeline.errors import ConfigError, ExportError, PipelineError, disk_error
from pipeline.flow.explaining import explain
from pipeline.flow.outcome_file import note_end
from pipeline.printable import PrintableFormatter, is_unicode, print_error

Config = TypeVar("Config")

OK, ERROR, GATE_FAILED = 0, 1, 2
_WORDS = {OK: "published", GATE_FAILED: "gate failed"}


def run_command(
    do: Callable[[PipelineConfig], int],
    choose: Callable[[Sequence[PipelineConfig]], int] | None = None,
) -> int:
    """Compose the pipeline's config, call ``do`` with it, and return the exit code.

    Where the config names several precisions to choose from, ``choose`` is called instead, with a
    config for each.
    """
    register_schema()

    def checked(config: PipelineConfig) -> int:
        _check_names(config)
        names = config.precision.candidates
        if names and choose is not None:
            return choose([_of_candidate(name) for name in names])
        if names:
            raise ConfigError("precision=auto is for python -m pipeline: name a precision here")
        if config.target is not None:
            raise ConfigError(
                f"target={config.target} is what precision=auto chooses for: leave it out with "
                f"precision={config.precision.name}"
            )
        return do(config)

    return run_composed("config", PipelineConfig, checked)


def _of_candidate(name: str) -> PipelineConfig:
    """Compose the config of this job again, as if that precision had been named.

    Raises:
        ConfigError: there is no such precision, or it names others in turn.
    """
    given = [
        override
        for override in HydraConfig.get().overrides.task
        if override.partition("=")[0].lstrip("+") not in ("precision", "precision.candidates")
    ]
    try:
        composed = hydra.compose("config", [*given, f"precision={name}"])
    except HydraException as error:
        words = explain(error, sys.argv[1:], PipelineConfig)
        raise ConfigError(f"precision.candidates: {words}") from error
    config = _to_typed(composed, PipelineConfig)
    if config.precision.candidates:
        raise ConfigError(f"precision.candidates: {name} is a choice among others itself")
    _check_names(config)
    return config


def run_composed(name: str, schema: type[Config], do: Callable[[Config], int]) -> int:
    """Compose ``conf/<name>.yaml``, do what is asked with it, and return the exit code.

    A sweep (``-m``) runs every job, ends with one line for each, and returns the worst code.
    """
    code = run_to_end(lambda: _compose(name, schema, do), left="nothing unfinished was published")
    if code == INTERRUPTED:
        note_end(code, message="interrupted")
    elif code > 128:
        note_end(code, message=f"ended by {signal.Signals(code - 128).name}")
    return code


def _compose(name: str, schema: type[Config], do: Callable[[Config], int]) -> int:
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach this function instead of Hydra's printer
    codes: list[int] = []
    swept: list[str] = []

    @hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)
    def job(composed: DictConfig) -> None:
        code, message = _run_job(composed, schema, do, wants_traceback)
        codes.append(code)
        of = HydraConfig.get()
        if of.mode is RunMode.MULTIRUN:
            swept.append(f"{' '.join(of.overrides.task)}: {message or _WORDS.get(code, code)}")

    try:
        job()
    except SystemExit as stop:  # argparse, on an option it does not know: not a failed gate
        return ERROR if stop.code else OK
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        _fail(explain(error, sys.argv[1:], schema))
        return ERROR
    except OSError as error:  # before and after the job Hydra writes its own files
        if wants_traceback or output_is_gone(error):
            raise
        _fail(
            f"cannot write {error.filename or 'files of Hydra'}: {error.strerror or error}; set "
            "hydra.run.dir (hydra.sweep.dir with -m) to a directory that you may write"
        )
        return ERROR
    finally:
        if swept:
            print("\n".join(["", f"{len(swept)} jobs ended", *(f"  {line}" for line in swept)]))
    if ERROR in codes:
        return ERROR
    return max(codes, default=OK)


def _run_job(
    composed: DictConfig, schema: type[Config], do: Callable[[Config], int], wants_traceback: bool
) -> tuple[int, str | None]:
    """Run one job and return its exit code, and the words of its error if it had one."""
    try:
        config = _to_typed(composed, schema)
        _set_up_logging()
        return do(config), None
    except Exception as error:
        if wants_traceback or output_is_gone(error):
            raise
        message = _words(error, schema)
    _fail(message)
    return ERROR, f"error: {message}"


def _words(error: Exception, schema: type[Any]) -> str:
    """Return what an error of a job means to the user, in one line."""
    if isinstance(error, ExportError) or not isinstance(error, PipelineError):
        error = disk_error(error) or error
    match error:
        case PipelineError():
            return str(error)
        case OmegaConfBaseException():
            return explain(error, sys.argv[1:], schema)
        case OSError():
            where = f" {error.filename}" if error.filename else ""
            return (
                f"cannot read or write{where}: {error.strerror or error}; nothing was published; "
                "set artifacts_dir to a directory that is writable and has room"
            )
        case MemoryError():
            return "out of memory; lower validate.batch_size or engine.max_batch"
        case _:  # a bug of ours: still one line, with the way to the traceback
            detail = " ".join(str(error).split())[:300]
            return (
                f"internal error: {type(error).__name__}: {detail}; please report it with the "
                "traceback that HYDRA_FULL_ERROR=1 shows"
            )


def _to_typed(composed: DictConfig, schema: type[Config]) -> Config:
    """Return the config as dataclasses; merging with the schema refuses keys added with ``+``."""
    plain = OmegaConf.to_container(composed)
    checked = OmegaConf.merge(OmegaConf.structured(schema), plain)
    config = OmegaConf.to_object(checked)
    assert isinstance(config, schema)
    _check_texts(config)
    return config


def _check_texts(config: Any, key: str = "") -> None:
    """An empty text is no name and no path: as a path it would be the current directory.

    Raises:
        ConfigError: a key has one, or a name that is not Unicode.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), f"{key}{field.name}"
        if isinstance(value, str) and not value.strip():
            raise ConfigError(f"{name} is empty: give it a value, or leave it out")
        if isinstance(value, str) and not is_unicode(value):
            raise ConfigError(
                f"{name}={value!a} is not UTF-8, and stands in reports that are: rename what it "
                "names, or give a link to it"
            )
        if is_dataclass(value):
            _check_texts(value, f"{name}.")


def _check_names(config: PipelineConfig) -> None:
    """Model and precision names become directories.

    Raises:
        ConfigError: a name with anything but letters, digits, dot, dash and underscore.
    """
    for key, name in (("model", config.model.name), ("precision", config.precision.name)):
        taken = name.endswith((".rejected", ".unvalidated"))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or taken:
            raise ConfigError(
                f"{key}.name={name!r}: expected letters, digits, '.', '-' and '_': "
                "it names a directory"
            )


def _set_up_logging() -> None:
    """One line a stage on stderr, coloured on a terminal; libraries only when they warn."""
    from rich.logging import RichHandler

    from pipeline.progress import console

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if console.is_terminal:
        handler: logging.Handler = RichHandler(
            console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(PrintableFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    level = os.environ.get("PIPELINE_LOG_LEVEL", "INFO").upper()
    logging.getLogger("pipeline").setLevel(level)


def _fail(message: str) -> None:
    print_error(message)
    note_end(ERROR, message=message)
