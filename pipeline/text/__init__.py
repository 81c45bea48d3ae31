"""Read text: datasets, split into calibration and evaluation, and token batches."""
