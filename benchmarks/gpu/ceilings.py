"""The machine's limits, measured: large GEMMs by arithmetic, a large copy, a kernel's launch."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu.roofline import SIZES, ModelSize

KINDS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_NEEDS = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9)}
_NOT_ON_A_CPU = {
    "tf32": "no CUDA device",
    "fp16": "a CPU computes fp16 in fp32",
    "fp8": "no CUDA device",
}
_PASSES = 5


def measure_ceilings(device: str, *, quick: bool) -> dict[str, Any]:
    """Return TFLOP/s of a large GEMM of each kind, GB/s of a copy, microseconds of a launch."""
    size = 256 if quick else 8192 if device == "cuda" else 2048
    found: dict[str, Any] = {}
    for kind in KINDS:
        reason = _obstacle(kind, device)
        found[kind] = (
            {"skipped": reason}
            if reason
            else {"tflops": _gemm_tflops([(size, size, size)], kind, device), "size": size}
        )
    found["copy"] = _copy(device, quick=quick)
    found["launch"] = _launch() if device == "cuda" else {"skipped": "no CUDA device"}
    return found


def measure_model_gemms(device: str, *, quick: bool) -> dict[str, Any]:
    """Return, by model and kind, the TFLOP/s that a layer's linear GEMMs reach one by one.

    So many tokens are a batch of 32 texts of 128: what an engine gets from the same library with
    nothing in between.
    """
    tokens = 64 if quick else 4096
    return {
        "tokens": tokens,
        "models": {
            name: {
                kind: {"skipped": reason}
                if (reason := _obstacle(kind, device))
                else {"tflops": _gemm_tflops(_layer(size, tokens), kind, device)}
                for kind in KINDS
            }
            for name, size in SIZES.items()
        },
    }


def _layer(size: ModelSize, tokens: int) -> list[tuple[int, int, int]]:
    hidden, intermediate = size.hidden, size.intermediate
    pairs = ((hidden, 3 * hidden), (hidden, hidden), (hidden, intermediate), (intermediate, hidden))
    return [(tokens, inner, outer) for inner, outer in pairs]


def _obstacle(kind: str, device: str) -> str | None:
    if device == "cuda":
        least = _NEEDS.get(kind, (0, 0))
        if torch.cuda.get_device_capability() < least:
            return f"needs compute capability {least[0]}.{least[1]}"
        return None
    return _NOT_ON_A_CPU.get(kind)


def _gemm_tflops(shapes: list[tuple[int, int, int]], kind: str, device: str) -> float:
    """Return the operations of all shapes (rows, inner, columns) over the sum of their times."""
    seconds = sum(best_seconds(_gemm(shape, kind, device), device) for shape in shapes)
    return sum(2 * rows * inner * columns for rows, inner, columns in shapes) / seconds / 1e12


def _gemm(shape: tuple[int, int, int], kind: str, device: str) -> Callable[[], object]:
    rows, inner, columns = shape
    if kind == "int8":
        a = torch.randint(-128, 128, (rows, inner), dtype=torch.int8, device=device)
        b = torch.randint(-128, 128, (columns, inner), dtype=torch.int8, device=device).t()
        return lambda: torch._int_mm(a, b)
    if kind == "fp8":
        one = torch.ones((), device=device)
        left = torch.randn((rows, inner), device=device).to(torch.float8_e4m3fn)
        right = torch.randn((columns, inner), device=device).to(torch.float8_e4m3fn).t()
        return lambda: torch._scaled_mm(left, right, one, one, out_dtype=torch.bfloat16)
    dtype = _DTYPES.get(kind, torch.float32)
    x = torch.randn((rows, inner), device=device).to(dtype)
    y = torch.randn((columns, inner), device=device).to(dtype).t()

    def multiply() -> object:
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        try:
            return torch.matmul(x, y)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False

    return multiply


def _copy(device: str, *, quick: bool) -> dict[str, Any]:
    size = (16 if quick else 1024 if device == "cuda" else 256) * 2**20
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = best_seconds(lambda: target.copy_(source), device)
    return {"gb_per_second": 2 * size / seconds / 1e9, "bytes": size}


def _launch() -> dict[str, Any]:
    """Time an empty-handed kernel: queued one behind another, and waited for each time."""
    one = torch.zeros(1, device="cuda")

    def wait() -> None:
        one.add_(1)
        torch.cuda.synchronize()

    return {
        "queued_us": best_seconds(lambda: one.add_(1), "cuda", repeats=2000) * 1e6,
        "waited_us": best_seconds(wait, "cuda", repeats=200) * 1e6,
    }


@torch.inference_mode()
def best_seconds(work: Callable[[], object], device: str, *, repeats: int | None = None) -> float:
    """Return the fastest pass's seconds for one call; a limit is what was reached, not the mean.

    ``repeats`` None takes as many calls a pass as fill 20 ms.
    """
    for _ in range(2):
        one = _pass_seconds(work, device, 1)
    calls = repeats or max(1, round(0.02 / max(one, 1e-7)))
    return min(_pass_seconds(work, device, calls) for _ in range(_PASSES))


def _pass_seconds(work: Callable[[], object], device: str, calls: int) -> float:
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    _synchronize(device)
    return (time.perf_counter() - start) / calls


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
