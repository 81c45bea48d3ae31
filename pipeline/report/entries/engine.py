"""Say of each plan in ``report.json`` what it runs: read from its kernels, and predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.contracts import Engine, Profile
from pipeline.engines.layers.predict import find_profile, known_gpus, predict_ms
from pipeline.engines.layers.records import EngineLayers, Layer, read_layers
from pipeline.engines.layers.summary import bytes_per_token, operations_per_token, summarize

SHAPES = ((1, 16), (1, 128), (32, 32), (32, 128), (64, 256))
"""Batches and sequences that are told of, where a profile of the plan takes them."""

_MAIN = "32x128"


def engine_entry(engine: Engine, types: Sequence[str]) -> dict[str, Any] | None:
    """Return ``engine`` of an artifact, None where the builder listed no kernels.

    ``types`` are those that the precision's label speaks of: each is counted, none of it too.
    """
    if engine.layers is None:
        return None
    return describe_plan(read_layers(engine.layers), engine.profiles, engine.target, types)


def describe_plan(
    found: EngineLayers, profiles: Sequence[Profile], target: str, types: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what a plan of these optimization profiles runs, by batch and sequence."""
    at = {
        f"{batch}x{sequence}": (found.of_profile(profile), batch, sequence)
        for batch, sequence in _shapes(profiles)
        if (profile := find_profile(profiles, batch, sequence)) is not None
    }
    main = _MAIN if _MAIN in at else list(at)[-1]
    summary = summarize(found, at[main][0][0].profile)
    return {
        "target": target,
        "kernels": summary.kernels,
        "kernels_per_block": summary.kernels_per_block,
        "kinds": dict(summary.kinds),
        "encoder_blocks": summary.encoder_blocks,
        "attention_fused": summary.attention_fused,
        "gemms": dict.fromkeys(types, 0) | dict(summary.gemms),
        "gemms_with_epilogue": summary.gemms_with_epilogue,
        "moves": summary.moves,
        "bytes_per_token": {key: round(bytes_per_token(*of)) for key, of in at.items()},
        "operations_per_token": {
            key: {name: round(count) for name, count in operations_per_token(*of).items()}
            for key, of in at.items()
        },
        "predicted_ms": _predicted(at),
    }


def _shapes(profiles: Sequence[Profile]) -> Sequence[tuple[int, int]]:
    """Return the shapes that a profile takes, or what the last one was tuned for."""
    taken = [shape for shape in SHAPES if find_profile(profiles, *shape) is not None]
    return taken or [profiles[-1].opt]


def _predicted(
    at: Mapping[str, tuple[Sequence[Layer], int, int]],
) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for gpu in known_gpus().values():
        for key, (layers, batch, sequence) in at.items():
            time = predict_ms(layers, gpu, batch=batch, sequence=sequence)
            if time is not None:
                table.setdefault(gpu.label, {})[key] = round(time, 4)
    return table
