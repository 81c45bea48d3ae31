"""Turn stage outputs into JSON and back, their paths relative to the run's work directory."""

from pathlib import Path
from typing import Any, TypeVar

import cattrs

from pipeline.contracts import EmbeddingRanges, Engine, Graphs, OnnxModel, SourceModel

T = TypeVar("T", SourceModel, OnnxModel, Graphs, Engine, EmbeddingRanges)
Artifact = SourceModel | OnnxModel | Graphs | Engine | EmbeddingRanges


def to_record(artifact: Artifact, work: Path) -> Any:
    """Return an artifact as values that JSON holds; ``from_record`` gives it back."""
    converter = cattrs.Converter()
    converter.register_unstructure_hook(Path, lambda path: _relative(path, work))
    return converter.unstructure(artifact)


def from_record(kind: type[T], record: Any, work: Path) -> T:
    """Return the artifact that ``to_record`` wrote, its files below ``work``.

    Raises:
        ValueError: the record is not one of this kind.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    # `work / path` is `path` itself where that is absolute: the model's own directory.
    converter.register_structure_hook(Path, lambda value, _: work / str(value))
    converter.register_structure_hook(str | int, _dimension)
    try:
        return converter.structure(record, kind)
    except (cattrs.BaseValidationError, TypeError) as error:
        raise ValueError(f"not a record of {kind.__name__}: {error}") from error


def _relative(path: Path, work: Path) -> str:
    inside = path.is_relative_to(work)
    return path.relative_to(work).as_posix() if inside else str(path.absolute())


def _dimension(value: Any, _: Any) -> str | int:
    if not isinstance(value, str | int):
        raise TypeError(f"a dimension is a name or a number, not {value!r}")
    return value
