"""Define every error that the pipeline raises on purpose.

A message says what failed, what was seen, what was expected and which config key (or command)
changes it, on one line. ``pipeline.__main__`` prints it and exits with 1.

::

    PipelineError
    ├── ConfigError      unknown key, unknown choice, wrong type, contradicting values
    ├── DatasetError     missing file, missing column, empty text, too few sentences
    ├── ResolveError     model not found, weights not the expected ones, unsafe formats
    ├── ExportError      the exporter refused, or the graph does not compute what the model does
    ├── QuantizeError    nothing to quantize, or a fold changed the function
    ├── CastError        the graph cannot be cast to the precision asked for
    ├── OptimizeError    a rewrite of model.onnx changed what it computes
    ├── BuildError       TensorRT could not parse or build, or its process died
    ├── MeasureError     an artifact could not be run, or PyTorch itself returns NaN
    ├── PublishError     the bundle could not be written
    ├── NightlyError     the matrix of a night cannot be started, or not be written down
    ├── BundleError      a published bundle is incomplete, damaged or not for this machine
    ├── HistoryError     the database of nights is locked, damaged or read-only
    ├── ShareError       a bundle cannot be pushed to a hub or registry, or pulled from there
    └── EncodeError      a file to encode cannot be read, or its vectors cannot be written
"""

import errno
import os

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type's name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def disk_error(error: BaseException) -> OSError | None:
    """Return what the disk said if it is why something failed: full, over quota, read-only, broken.

    Libraries in Rust and C++ raise a type of their own, with the system's words in its text.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OF_DISKS:
            return cause
        for code in _OF_DISKS:
            if os.strerror(code) in str(cause):
                return OSError(code, os.strerror(code))
        cause = cause.__cause__
    return None


class PipelineError(Exception):
    """Base of all errors with a message meant for the user."""


class ConfigError(PipelineError):
    """The configuration does not compose, or contradicts the model."""


class DatasetError(PipelineError):
    """The text to calibrate or validate on cannot be used."""


class ResolveError(PipelineError):
    """The model cannot be found, or is not the one that the config names."""


class ExportError(PipelineError):
    """The ONNX graph cannot be made, or does not compute what the model computes."""


class QuantizeError(PipelineError):
    """The graph cannot be quantized."""


class CastError(PipelineError):
    """The graph cannot be cast to another floating-point type."""


class OptimizeError(PipelineError):
    """A rewrite of ``model.onnx`` changed what it computes."""


class BuildError(PipelineError):
    """An engine cannot be built."""


class MeasureError(PipelineError):
    """An artifact cannot be run, or what it returns is not a set of vectors."""


class PublishError(PipelineError):
    """The bundle cannot be published."""


class NightlyError(PipelineError):
    """A night cannot start, or what became of it cannot be written down."""


class BundleError(PipelineError):
    """A published bundle cannot be loaded."""


class HistoryError(PipelineError):
    """The history of nights cannot be read or written."""


class ShareError(PipelineError):
    """A bundle cannot be pushed or pulled."""


class EncodeError(PipelineError):
    """A file cannot be encoded."""
