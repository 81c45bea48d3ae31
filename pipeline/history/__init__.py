"""Keep what the nights measured, tell whether tonight got worse, and draw the pages of it.

::

    records ─► journal (JSONL) ─► judge ◄── rerun ─► database ─► trend.html, trend.md, junit.xml
    of a night   nothing is lost    │       old bundle beside new
                                    └─ findings

``records`` turns a night's cells into entries; ``journal`` and ``database`` keep them; ``judge``
says what is slower than it was, which ``rerun`` confirms or not; ``steps`` finds where a line
steps; ``trend``, ``summary`` and ``junit`` show all of it. ``python -m pipeline.history`` is the
edge.
"""
