"""List the kernels of a graph's plan in the form that engines are built from."""

import tempfile
from pathlib import Path

from pipeline.contracts import OnnxModel, Profile
from pipeline.engines.layers.records import EngineLayers
from pipeline.engines.plan_of_graph import plan_of_graph
from pipeline.graph.engine_forms.rewrite import rewrite_for_engines
from pipeline.graph.files import load_graph, save_graph


def plan_as_built(model: OnnxModel, profile: Profile) -> EngineLayers:
    """Rewrite a graph as the stage optimize does and return what TensorRT-RTX would run for it.

    Raises:
        BuildError: it cannot be built, or the builder lists no kernels.
    """
    graph = load_graph(model)
    rewrite_for_engines(graph)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "engine.onnx"
        save_graph(graph, path, precision=model.precision, source_sha256=model.sha256)
        return plan_of_graph(path, profile=profile)
