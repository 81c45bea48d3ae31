"""Watch what flows into each GEMM: ranges and second moments over real tokens.

Batches hold sentences of one length each, so there is no padding to pollute a range. Memory is
bounded by one batch, one ``[channels, channels]`` matrix and a sample of tokens a tensor, whatever
the size of the calibration set.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from pipeline.errors import QuantizeError
from pipeline.graph.observe import MAX_TOKENS, run_observed
from pipeline.text.tokens import TokenBatch
from pipeline.vectors import DoubleArray, FloatArray

SAMPLED_TOKENS = 1024
"""Tokens of each tensor that are kept as they are, drawn at random over the whole set."""


@dataclass(frozen=True, slots=True)
class Activation:
    """What a tensor's last axis looked like over ``tokens`` tokens.

    ``low``, ``high`` and ``mean`` are ``[channels]``; ``covariance`` is ``[channels, channels]``,
    where it was asked for; ``sample`` is ``[<= 1024, channels]``, the same tokens of every tensor.
    """

    tokens: int
    low: FloatArray
    high: FloatArray
    mean: DoubleArray
    covariance: DoubleArray | None
    sample: FloatArray

    def magnitude(self, shift: FloatArray | float = 0.0) -> FloatArray:
        """Return the largest absolute value of each channel of ``x - shift``."""
        magnitude: FloatArray = np.maximum(self.high - shift, shift - self.low)
        return magnitude

    def transformed(self, shift: FloatArray, factors: FloatArray) -> "Activation":
        """Return the statistics of ``(x - shift) / factors``."""
        z, s = shift.astype(np.float64), factors.astype(np.float64)
        covariance = None
        if self.covariance is not None:  # a shift leaves it as it is
            covariance = self.covariance / s
            covariance /= s[:, None]
        return Activation(
            tokens=self.tokens,
            low=(self.low - shift) / factors,
            high=(self.high - shift) / factors,
            mean=(self.mean - z) / s,
            covariance=covariance,
            sample=(self.sample - shift) / factors,
        )

    def without_covariance(self) -> "Activation":
        """Return the rest, which is what a choice of strengths is made on."""
        return replace(self, covariance=None)

    def taken(self, channels: npt.NDArray[np.int64]) -> "Activation":
        """Return the statistics of ``x[..., channels]``."""
        return Activation(
            tokens=self.tokens,
            low=self.low[channels],
            high=self.high[channels],
            mean=self.mean[channels],
            covariance=None
            if self.covariance is None
            else self.covariance[np.ix_(channels, channels)],
            sample=self.sample[:, channels],
        )


def observe(
    model: ir.Model,
    tensors: Sequence[ir.Value],
    batches: Iterable[TokenBatch],
    *,
    covariances: bool = True,
) -> Mapping[str, Activation]:
    """Run the graph in ONNX Runtime and return the statistics of each tensor, by name.

    ``covariances`` cost more than all the rest; only GPTQ needs them.

    Raises:
        QuantizeError: a tensor holds NaN or infinite values.
    """
    sums: dict[str, Sum] = {}
    for values in run_observed(model, tensors, batches):
        for name, value in values.items():
            if name not in sums:
                sums[name] = Sum(name, value.shape[-1], covariance=covariances)
            sums[name].add(value)
    return {name: total.result() for name, total in sums.items()}


class Sum:
    """Running sums of one tensor; rows are gathered, since one large product costs less."""

    def __init__(self, name: str, channels: int, *, covariance: bool) -> None:
        """Start without a token."""
        self._name = name
        self._tokens = 0
        self._low = np.full(channels, np.inf, np.float32)
        self._high = np.full(channels, -np.inf, np.float32)
        self._first = np.zeros(channels)
        self._second = np.zeros((channels, channels)) if covariance else None
        self._rows: list[FloatArray] = []
        self._random = np.random.default_rng(0)
        self._sample = np.empty((0, channels), np.float32)
        self._draws = np.empty(0)

    def add(self, value: FloatArray) -> None:
        """Add what the tensor holds of a batch, ``[..., channels]``.

        Raises:
            QuantizeError: it holds NaN or infinite values.
        """
        flat = value.reshape(-1, value.shape[-1])
        if not np.isfinite(flat).all():
            raise QuantizeError(f"calibration: tensor {self._name} holds NaN or infinite values")
        np.minimum(self._low, flat.min(axis=0), out=self._low)
        np.maximum(self._high, flat.max(axis=0), out=self._high)
        self._rows.append(flat)
        if sum(map(len, self._rows)) >= MAX_TOKENS:
            self._flush()

    def _flush(self) -> None:
        rows = np.concatenate(self._rows)
        self._rows = []
        self._tokens += len(rows)
        self._first += rows.sum(axis=0, dtype=np.float64)
        if self._second is not None:
            self._second += rows.T @ rows
        draws = np.concatenate([self._draws, self._random.random(len(rows))])
        kept = np.argsort(draws)[:SAMPLED_TOKENS]
        self._sample = np.concatenate([self._sample, rows])[kept]
        self._draws = draws[kept]

    def result(self) -> Activation:
        """Return the statistics; the sums are of no use afterwards."""
        if self._rows:
            self._flush()
        n = self._tokens
        mean, covariance = self._first / n, self._second
        if covariance is not None:
            covariance /= n
            covariance -= np.outer(mean, mean)
        return Activation(
            tokens=n,
            low=self._low,
            high=self._high,
            mean=mean,
            covariance=covariance,
            sample=self._sample,
        )
