"""Rewrites of the graph that engines are built from: the same function in forms that compile well.

Found by reading the layers of built plans (docs/engines.md). One idea a file, each exact and
matched by structure, through the casts of fp16 and the Q/DQ pairs of int8; what does not match
stays.
"""
