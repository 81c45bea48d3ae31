"""Say which GPUs compute in fp8, and refuse the others by name."""

from pipeline.engines.gpu import Gpu
from pipeline.errors import BuildError

LEAST = (8, 9)
"""Ada's compute capability; Hopper's is 9.0, Blackwell's 10.0 and 12.0 ("CUDA Programming Guide",
compute capabilities: tensor cores' types)."""


def fp8_target(gpu: Gpu | None, target: str | None = None) -> str:
    """Return which GPU type an fp8 plan is for: the one asked for, this machine's, or Ada.

    Raises:
        BuildError: it has no fp8.
    """
    if target is not None:
        digits = target.removeprefix("sm_")
        capability, name = (int(digits[:-1]), int(digits[-1])), target
    elif gpu is not None:
        capability, name = gpu.compute_capability, gpu.name
    else:
        capability, name = LEAST, "Ada"
    if capability < LEAST:
        raise BuildError(
            f"precision=fp8: {name} has compute capability {capability[0]}.{capability[1]} and no "
            "fp8, which came with 8.9 (Ada, Hopper, Blackwell); use precision=int8 or fp16"
        )
    return f"sm_{capability[0]}{capability[1]}"
