"""Read what a plan really runs: its kernels, where it was built, and what they cost."""
