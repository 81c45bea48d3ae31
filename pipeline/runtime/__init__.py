"""Load a published bundle and encode text with it.

from pipeline.runtime import load
encoder = load("artifacts/minilm/int8")
encoder.encode(["a sentence"])
"""

from pipeline.runtime.batcher import Batcher
from pipeline.runtime.encoder import TextEncoder
from pipeline.runtime.loading import load

__all__ = ["Batcher", "TextEncoder", "load"]
