"""What a plan really runs: its kernels, read where it was built, and what they cost."""
