"""Name what a build is asked for, and what its process tells while and when it is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.contracts import Profile, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """Everything the child needs.

    ``compute_capability`` (``8.9``) narrows what TensorRT-RTX builds for; None: its own targets.
    ``version_compatible`` makes a plan that the lean runtime loads, too. ``layers`` is where the
    plan's kernels are listed; None: nowhere.
    """

    runtime: str
    model: Path
    plan: Path
    profiles: tuple[Profile, ...]
    workspace_mib: int
    optimization_level: int | None
    timing_cache: Path | None
    compute_capability: str | None = None
    version_compatible: bool = False
    layers: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What was read back from the parsed network, and why no kernels are listed, if so."""

    runtime_version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layer_types: Mapping[str, int]
    layers_missing: str | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the parent's log."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A builder phase: started with ``steps``, advanced to ``done``, or finished (``steps`` 0)."""

    name: str
    steps: int = 0
    done: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no plan, in the builder's own words."""

    text: str
