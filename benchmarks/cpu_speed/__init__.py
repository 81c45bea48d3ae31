"""How fast all-MiniLM-L6-v2 turns text into vectors on the CPU: this project beside its peers.

    sides ─► workers (a process each, its own environment) ─► paired random rounds ─► docs table

``python -m benchmarks.cpu_speed --stsb DIR`` loads every side once, then times all of them in every
round, one after another in random order, so that ratios hold on a machine whose speed drifts.
"""
