"""The peers, each a script that runs in its own environment: a job in, a quantized graph out.

They import nothing of the product. Run as ``python -m benchmarks.int8_quality.peers.<name> JOB``.
"""
