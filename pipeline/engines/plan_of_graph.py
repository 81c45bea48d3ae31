"""Find out what TensorRT-RTX would run for a graph: a plan is built, listed and thrown away."""

import tempfile
from pathlib import Path

from pipeline.contracts import Profile
from pipeline.engines.build_messages import BuildRequest
from pipeline.engines.builder import run_build
from pipeline.engines.layers.records import EngineLayers, read_layers
from pipeline.errors import BuildError

PROFILE = Profile(min=(1, 1), opt=(32, 128), max=(64, 256))
_WORKSPACE_MIB = 2048


def plan_of_graph(
    model: Path,
    compute_capability: str | None = None,
    *,
    profile: Profile = PROFILE,
    timeout_s: int = 600,
) -> EngineLayers:
    """Return the kernels of the plan that TensorRT-RTX builds, for ``8.9`` say; needs no GPU.

    Raises:
        BuildError: it cannot be built, or the builder lists no kernels.
    """
    with tempfile.TemporaryDirectory() as directory:
        layers = Path(directory) / "layers.json"
        request = BuildRequest(
            runtime="tensorrt_rtx",
            model=model,
            plan=Path(directory) / "plan",
            profiles=(profile,),
            workspace_mib=_WORKSPACE_MIB,
            optimization_level=None,
            timing_cache=None,
            compute_capability=compute_capability,
            layers=layers,
        )
        result = run_build(request, timeout_s=timeout_s)
        if result.layers_missing is not None:
            raise BuildError(
                f"{model}: what a plan of it runs is not known: {result.layers_missing}"
            )
        return read_layers(layers)
