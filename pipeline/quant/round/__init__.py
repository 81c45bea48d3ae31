"""Round weights to integers."""
