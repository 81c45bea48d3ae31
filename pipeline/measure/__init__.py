"""Measure artifacts: agreement of vectors, task scores, interleaved timing."""
