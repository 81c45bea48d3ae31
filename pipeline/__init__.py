"""Turn a Sentence Transformer into a bundle that NVIDIA hardware runs fast.

    resolve ─► export ─► cast │ quantize ─► build ─► validate ─► publish

``python -m pipeline model=minilm precision=int8`` runs the flow; ``pipeline.flow.run`` names its
stages in order. ``pipeline.runtime.load(directory).encode(texts)`` uses what it publishes.
Each stage is a function from frozen inputs to a frozen output (``pipeline.contracts``), gets
its own section of the config (``pipeline.config``) and writes only where it is told to.
"""

__version__ = "0.2.0"
