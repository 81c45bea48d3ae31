"""Read text: datasets, their two sides, and token batches."""
