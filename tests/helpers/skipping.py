"""Skip what needs a package that is not installed."""

from importlib.util import find_spec

import pytest

from pipeline.config import Exporter


def skip_without(exporter: Exporter) -> None:
    """Skip what needs the optimum exporter where it is not installed (constraints-optimum.txt)."""
    if exporter is Exporter.optimum and find_spec("optimum") is None:
        pytest.skip("exporter=optimum: the extra optimum is not installed")
