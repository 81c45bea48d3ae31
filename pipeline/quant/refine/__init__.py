"""Decide after rounding, on held-back text, and fit what was rounded."""
