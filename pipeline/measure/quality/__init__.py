"""Measure what an artifact's vectors are worth."""
