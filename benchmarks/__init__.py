"""Side-by-side runs against other tools; each directory is one command with its result in docs."""
