"""What a GPU (or, lacking one, the CPU) makes of one bundle, beside the machine's own limits.

Sides, sections and the JSON are described in ``docs/gpu.md``.

    python -m benchmarks.gpu --bundle artifacts/minilm/int8 --json gpu.json
"""
