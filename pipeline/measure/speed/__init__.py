"""Time artifacts side by side."""
