"""Run one cell of a night, and tell what came of it."""
