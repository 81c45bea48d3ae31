"""Fill the report where validation was turned off."""

from collections.abc import Sequence

from pipeline.contracts import Engine, Graphs
from pipeline.measure.results import CUDA_NAME, ArtifactResult, Validation
from pipeline.text.datasets import Dataset

REASON = "validation was turned off (validate.enabled=false)"


def unvalidated(
    graphs: Graphs, engines: Sequence[Engine], dataset: Dataset, *, with_openvino: bool
) -> Validation:
    """Return a validation in which nothing was executed, every artifact with that reason."""
    model = graphs.portable.path
    names = ("onnxruntime", "openvino") if with_openvino else ("onnxruntime",)
    return Validation(
        executed=False,
        reference_device=None,
        reference_threads=None,
        dataset=dataset.name,
        dataset_sha256=None,
        reference_latency=None,
        reference_cold=None,
        baselines=(),
        artifacts=(
            *(ArtifactResult(name=name, path=model, reason=REASON) for name in names),
            *(
                ArtifactResult(name=CUDA_NAME, path=cuda.path, reason=REASON)
                for cuda in ([] if graphs.cuda is None else [graphs.cuda])
            ),
            *(
                ArtifactResult(name=engine.runtime, path=engine.path, reason=REASON)
                for engine in engines
            ),
        ),
    )
