"""Judge a night: what is gone, what stepped, what is slower than it was."""
