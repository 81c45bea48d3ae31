"""What a GPU could do at most: operations and bytes of a token against the vendor's peak figures.

Computed, not measured. ``python -m benchmarks.gpu.roofline`` prints the table of ``docs/gpu.md``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """A BERT-like encoder: ``layers`` of attention and a feed-forward of two GEMMs."""

    layers: int
    hidden: int
    intermediate: int

    @property
    def linear_weights(self) -> int:
        """Weights of the linear GEMMs: query, key, value, output, and the two feed-forward ones."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """A GPU's dense peaks from NVIDIA's data sheet: TFLOP/s (int8: TOP/s) and GB/s."""

    fp16: float
    int8: float
    memory: float


SIZES = {
    "all-MiniLM-L6-v2": ModelSize(layers=6, hidden=384, intermediate=1536),
    "all-mpnet-base-v2": ModelSize(layers=12, hidden=768, intermediate=3072),
}

PEAKS = {
    "L4": Peaks(fp16=121, int8=242, memory=300),
    "A100 SXM 80 GB": Peaks(fp16=312, int8=624, memory=2039),
    "H100 SXM": Peaks(fp16=989, int8=1979, memory=3350),
    "H200 SXM": Peaks(fp16=989, int8=1979, memory=4800),
}
"""NVIDIA's data sheets give Ada's and Hopper's figures with sparsity; dense is half of that. Their
addresses: ``pipeline/engines/layers/gpus.toml``; https://www.nvidia.com/en-us/data-center/h200/."""


def token_flops(
    linear_weights: int, layers: int, hidden: int, sequence: int
) -> tuple[float, float]:
    """Return a token's operations in linear GEMMs and in attention, in a text of ``sequence``.

    A multiply-add is two. Softmax, norms, embeddings and pooling are left out: below 1 %.
    """
    return 2.0 * linear_weights, 4.0 * layers * hidden * sequence


def token_bytes(size: ModelSize, kind: str) -> int:
    """Return the bytes a token moves where each fused kernel reads and writes memory once.

    A layer is seven kernels: query-key-value, attention, output, add and norm, two feed-forward
    GEMMs (GELU within the first), add and norm. In int8, what feeds a linear GEMM takes one byte a
    value, all else two.
    """
    values = 18 * size.hidden + 2 * size.intermediate
    feeding = 2 * (3 * size.hidden + size.intermediate)
    return size.layers * (2 * values - (feeding if kind == "int8" else 0))


def target(size: ModelSize, peaks: Peaks, kind: str, sequence: int) -> tuple[float, str]:
    """Return tokens per second at most, and whether ``compute`` or ``memory`` ends there.

    Attention's own GEMMs are in fp16 for either ``kind``.
    """
    linear, attention = token_flops(size.linear_weights, size.layers, size.hidden, sequence)
    peak = peaks.int8 if kind == "int8" else peaks.fp16
    compute_s = linear / (peak * 1e12) + attention / (peaks.fp16 * 1e12)
    memory_s = token_bytes(size, kind) / (peaks.memory * 1e9)
    return 1 / max(compute_s, memory_s), "compute" if compute_s >= memory_s else "memory"


def table(sequence: int) -> str:
    """Return the targets as Markdown: millions of tokens per second, and what ends there."""
    lines = [
        f"| GPU | {' | '.join(f'{name} {kind}' for name in SIZES for kind in ('fp16', 'int8'))} |",
        "|---|" + "---|" * (2 * len(SIZES)),
    ]
    for gpu, peaks in PEAKS.items():
        cells = []
        for size in SIZES.values():
            for kind in ("fp16", "int8"):
                tokens, limit = target(size, peaks, kind, sequence)
                cells.append(f"{tokens / 1e6:.3g} ({limit})")
        lines.append(f"| {gpu} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(128))
