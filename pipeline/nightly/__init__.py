"""Build a matrix of models, precisions and devices every night, whatever one of them does.

::

    config ─► matrix ─► night ─► local │ slurm │ kubernetes ─► after ─► summary
              cells     plan,     each cell: cell.py runs       history  stdout, json,
                        resume    python -m pipeline …          findings markdown, junit

One cell is one command (``python -m pipeline …``) in a process group of its own and one
``status.json``, on a directory that all machines share. ``pipeline.nightly.cells.cell`` runs one,
under every scheduler alike; what starts the cells only waits for their status files.
"""
