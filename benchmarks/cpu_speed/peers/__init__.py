"""The sides, each a script that loads one library in an environment of its own and waits for work.

They import nothing of the product, but for ``bundle``, which is the product. Run as
``python -m benchmarks.cpu_speed.peers.<name> JOB``.
"""
